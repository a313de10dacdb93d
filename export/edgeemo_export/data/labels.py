"""The seven labels and how each corpus names them."""

from __future__ import annotations

LABELS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")

# Calm counts as neutral: both are acted without arousal, and the other corpora know no calm.
RAVDESS = {
    "01": "neutral",
    "02": "neutral",
    "03": "happiness",
    "04": "sadness",
    "05": "anger",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
EMODB = {"W": "anger", "F": "happiness", "N": "neutral", "T": "sadness"}
NEMO = {
    "anger": "anger",
    "fear": "fear",
    "happiness": "happiness",
    "neutral": "neutral",
    "sadness": "sadness",
    "surprised": "surprise",
}

# Valence and arousal of the emotion words on [-1, 1]: means of the three-factor ratings in Russell and
# Mehrabian (1977), "Evidence for a three-factor theory of emotions", Journal of Research in Personality 11,
# 273-294; neutral is the origin.
NORMS = {
    "anger": (-0.51, 0.59),
    "disgust": (-0.60, 0.35),
    "fear": (-0.64, 0.60),
    "happiness": (0.81, 0.51),
    "neutral": (0.0, 0.0),
    "sadness": (-0.63, -0.27),
    "surprise": (0.40, 0.67),
}
