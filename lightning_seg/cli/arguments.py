"""The parser of the commands that need no configuration."""

import argparse
from typing import NoReturn

from lightning_seg.errors import UserError


class Arguments(argparse.ArgumentParser):
    """Reports a wrong option in one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        """Raise the error for `lightning_seg.cli.main.main` to print."""
        raise UserError(f"{message}. '{self.prog} --help' explains the options")
