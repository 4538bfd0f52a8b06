"""`python -m saematch`."""

import sys

from saematch.cli import main

sys.exit(main())
