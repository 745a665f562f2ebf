"""Errors that are the user's to mend, and the exit codes of the commands."""

import difflib
import inspect
import re
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """With what the command line ends; after signal N with ``SIGNAL + N``."""

    DONE = 0
    FINDINGS = 1
    """Done, but something is wrong: bad files, failed runs, incomplete uploads, lost speed; or a crash."""
    USER_ERROR = 2
    SIGNAL = 128


class UserError(Exception):
    """Something outside the program is wrong: a setting, a file, a folder, a download.

    The message says what was expected, what was found and what to do. The command line prints it without a
    traceback and exits with `ExitCode.USER_ERROR`. Of a line that quotes something endless the beginning and the
    end are kept.

    Examples:
        >>> try:
        ...     Frozen(batch_norm="train", cache_gb=1)
        ... except UserError as error:
        ...     print(error)
        cache_gb keeps features, and those of batch_norm: train move; leave one of them out.
    """

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(_shortened, str(message).split("\n"))))


def _shortened(line: str, most: int = 1000) -> str:
    return line if len(line) <= most else f"{line[: most * 3 // 4]} ... {line[-most // 5 :]}"


_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value type:|Given value: NestedArg|Did you mean|"
    r"Expected an? <class 'NoneType'>|Expected a path but|'lightning-seg fit|^$"
)


def without_noise(message: str) -> str:
    """Return a message of jsonargparse without what it says of every type that the value might have had."""
    lines = [line.strip(" -") for line in message.splitlines()]
    lines = [line for line in lines if not (line.startswith("Given value: ") and len(line) > 120)]
    lines = [line if len(line) < 300 else f"{line[:200]} ... {line[-80:]}" for line in lines]
    kept = dict.fromkeys(line for line in lines if not _NOISE.match(line))
    text = "\n  ".join(kept)
    text = re.sub(r"<class '(?:builtins\.)?([\w.]+)'>", r"\1", text)
    return re.sub(r"a typing.Literal\[(.*?)\]", r"one of \1", text)


def did_you_mean(message: str, names: Iterable[str]) -> str:
    """Return a line that names the nearest right name to a wrong one in a message; nothing if there is none."""
    known = set(names)
    for word in (word.strip("'\"").lstrip("-").split("=")[0] for word in message.split()):
        leaf = word.rsplit(".", 1)[-1]
        if word in known or len(leaf) < 3 or not leaf.isidentifier():
            continue
        for part in (word, word.split(".")[0]):
            if part not in known and (close := difflib.get_close_matches(part, known, n=1, cutoff=0.8)):
                return f"\nDid you mean {close[0]}?"
    return ""


def parameters_of_subclasses(base: type) -> set[str]:
    """Return the names of the constructor's parameters of a class and of all classes derived from it so far."""
    found = set(inspect.signature(base).parameters)
    cls: type
    for cls in base.__subclasses__():
        found |= parameters_of_subclasses(cls)
    return found


def parameters_of(cls: type) -> set[str]:
    """Return the names of the constructor's parameters of a class, those included that it hands on to its bases."""
    found: set[str] = set()
    for part in cls.__mro__:
        if "__init__" in vars(part) and part is not object:
            parameters = inspect.signature(vars(part)["__init__"]).parameters
            found |= parameters.keys() - {"self"}
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
                break  # it hands nothing on
    return found
