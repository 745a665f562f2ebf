"""Errors that are the user's to mend."""


class UserError(Exception):
    """Something outside the program is wrong: a setting, a file, a folder, a download.

    The message says what was expected, what was found and what to do. The command line prints it without a
    traceback and exits with code 2. Of a line that quotes something endless the beginning and the end are kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(_shortened, str(message).split("\n"))))


def _shortened(line: str, most: int = 1000) -> str:
    return line if len(line) <= most else f"{line[: most * 3 // 4]} ... {line[-most // 5 :]}"
