"""Where emotions go: thin ends of one stream."""
