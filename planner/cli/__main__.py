"""`python -m planner.cli`: the command `plan` where the console script is not on the path."""

import sys

from planner.cli import main

sys.exit(main())
