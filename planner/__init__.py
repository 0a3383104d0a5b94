"""tuneplan's planner: what fits on a device, how tightly, how fast, and why. Never imports torch."""

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and sys.path[:1] != [__file__.rpartition(__name__)[0][:-1]]:
    # `python -m planner.cli`, typed without -P: Python has found this package and would look for all others in the
    # working folder first, where a `yaml.py` of the user would be run.
    del sys.path[0]

__version__ = "0.2.0"
