"""Numbers of things, as messages and reports say them."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number and what it counts, of which the plural takes an s.

    Example:
        >>> counted(1, "speaker"), counted(2, "speaker"), counted(0, "item")
        ('1 speaker', '2 speakers', '0 items')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
