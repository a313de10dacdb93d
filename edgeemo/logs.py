"""What is logged, and how often."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def saying_once() -> Iterator[None]:
    """Log each message of edgeemo once, for work that reads one source again and again.

    Example:
        >>> with saying_once():
        ...     for _ in range(3):
        ...         logging.getLogger("edgeemo").debug("clip.mp4: it is cut off")
    """
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in said
        said.add(message)
        return new

    logger = logging.getLogger("edgeemo")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)
