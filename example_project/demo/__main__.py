"""Runs the demo: ``python -m example_project.demo``."""

import sys

from example_project.demo.cli import main

if __name__ == "__main__":
    sys.exit(main())
