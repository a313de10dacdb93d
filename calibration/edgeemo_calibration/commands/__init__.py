"""The verbs of ``edgeemo-calibrate``: a module each, with its options and what it does with them."""
