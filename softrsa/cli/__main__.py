"""`python -m softrsa.cli`."""

import sys

from softrsa.cli import main

sys.exit(main())
