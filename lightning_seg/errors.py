"""Errors that are the user's to mend."""


class UserError(Exception):
    """Something outside the program is wrong: a setting, a file, a folder, a download.

    The message says what was expected, what was found and what to do. The command line prints it without a
    traceback and exits with code 2.
    """
