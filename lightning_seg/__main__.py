"""``python -m lightning_seg``, for torchrun and wherever the command is not in the PATH."""

import sys

from lightning_seg.cli.main import main

sys.exit(main())
