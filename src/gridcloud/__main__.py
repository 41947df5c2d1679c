"""``python -m gridcloud`` is ``gridcloud``."""

from __future__ import annotations

import sys

from gridcloud.cli import main

if __name__ == "__main__":
    sys.exit(main())
