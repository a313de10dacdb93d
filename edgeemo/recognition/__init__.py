"""From one hop's picture and sound to an Emotion, and from a stream or a clip to Emotions in time."""
