"""Systems: fusion graphs that read tokens and give emotions."""
