"""``python -m lightning_seg``."""

import sys

from lightning_seg.cli.main import main

sys.exit(main())
