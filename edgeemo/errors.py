"""The errors that edgeemo raises: one root, so that a caller can catch everything with one clause.

A message names the input, what was wrong with it and what would be right.
"""

from __future__ import annotations

from numbers import Number


class EdgeEmoError(Exception):
    """The root of every error that edgeemo raises on purpose.

    Example:
        >>> issubclass(BundleError, EdgeEmoError)
        True
    """


class BundleError(EdgeEmoError):
    """A bundle that cannot be used: a file is missing, altered, or does not say what it must."""


class SourceError(EdgeEmoError):
    """A file, camera or microphone that cannot be opened or read."""


class InputError(EdgeEmoError):
    """An argument that is not what it must be: a picture, samples, a rate, a time or a name."""


class BackendError(EdgeEmoError):
    """An inference engine that cannot be opened, or that failed while running."""


class CheckFailed(EdgeEmoError):
    """A gate or a comparison that said no (exit status 1 on the command line, where all others are 2)."""


def shown(value: object) -> str:
    """An argument as a message shows it: text and numbers as they are, of all else the type alone.

    So no message holds samples or pixels, whichever argument they were given for.

    Example:
        >>> shown("16000"), shown(0.5), shown([0.1, 0.2])
        ("'16000'", '0.5', 'list')
    """
    return repr(value) if isinstance(value, str | Number) else type(value).__name__
