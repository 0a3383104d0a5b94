"""tuneplan's trainer: a process of its own that runs a plan, measures it and writes an observation."""

import os
import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and sys.path[:1] != [__file__.rpartition(__name__)[0][:-1]]:
    # `python -m trainer`, typed without -P: Python has found this package and would look for all others in the working
    # folder first, where a `yaml.py` of the user would be run.
    del sys.path[0]

# transformers would fetch kernels from the hub and run them wherever the package `kernels` happens to be installed.
os.environ.setdefault("USE_HUB_KERNELS", "NO")
