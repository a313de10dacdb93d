"""From a camera picture or a sound to what an encoder reads: find and crop, resample."""
