"""`python -m edgeemo` is the command `edgeemo`."""

from edgeemo.cli import main

raise SystemExit(main())
