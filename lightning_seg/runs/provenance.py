"""Which code makes a run: the commits of this package and of the user's code, with what is not committed of them."""

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from lightning_seg.runs.directory import JsonObject

PACKAGE = Path(__file__).resolve().parents[1]
CODE_PATCH = "code.patch"
USER_CODE_PATCH = "user_code.patch"
_FILE_LIMIT = 1_000_000  # bytes; a larger untracked file is data rather than code
_PATCH_LIMIT = 5_000_000
_MOST_FILES = 1000
_MOST_NAMED = 20  # files that a patch's head names as left out
_PLAIN = ("--no-color", "--no-ext-diff", "--no-renames")  # whatever the user's git is set to
_TIMEOUT = 20  # seconds for one git command; a network drive may be slow


class GitError(Exception):
    """What git was asked is not known: it failed, took too long or is not installed."""


@dataclass(frozen=True)
class Repository:
    """A git repository.

    Args:
        root: Its top folder.
    """

    root: Path

    @classmethod
    def of(cls, path: Path, tracked: bool = False) -> "Repository | None":
        """Return the repository that a path lies in.

        Args:
            path: A file or folder.
            tracked: Only if the path is under version control there; what was installed into a virtual
                environment inside a repository is not.
        """
        path = path.resolve()
        root = _top(path)
        if root is None:
            return None
        found = cls(root)
        known = not tracked or found._git("ls-files", "--error-unmatch", "--", str(path)) is not None
        return found if known and found.commit is not None else None

    @property
    def commit(self) -> str | None:
        """The commit that is checked out; None without git, or before the first commit."""
        out = self._git("rev-parse", "HEAD")
        return out.decode().strip() if out else None

    def patch(self, besides: Path | None = None) -> tuple[bytes, list[str]]:
        """Return what differs from the commit: changes and new files, without ignored ones.

        Args:
            besides: A folder whose new files do not count, such as the one of all runs.

        Returns:
            A patch that ``git apply`` takes, empty if nothing differs; and the files that were too large for it.

        Raises:
            GitError: A command of git failed or took too long, so what differs is not known.
        """
        changed = self._changes()
        new = [*self._changes("--diff-filter=A"), *self._untracked(besides)]
        kept: list[str] = []
        left_out: list[str] = []
        total = 0
        for name in sorted({*changed, *new}, key=self._size):
            total += self._size(name)
            fits = self._size(name) <= _FILE_LIMIT and total <= _PATCH_LIMIT and len(kept) < _MOST_FILES
            (kept if fits else left_out).append(name)
        if not kept:
            return b"", sorted(left_out)
        with tempfile.TemporaryDirectory() as folder:
            # An index of its own, in which the new files are announced: the repository's is left as it is.
            index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
            self._checked("read-tree", "HEAD", environment=index)
            announced = b"\0".join(os.fsencode(name) for name in kept if name in new)
            if announced:
                add = ("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
                self._checked("--literal-pathspecs", *add, environment=index, stdin=announced)
            shape = ("--binary", "--full-index", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
            diff = ("--literal-pathspecs", "diff", *_PLAIN, *shape, "HEAD", "--", *sorted(kept))
            return self._checked(*diff, environment=index), sorted(left_out)

    def _changes(self, *options: str) -> list[str]:
        return self._names("diff", *_PLAIN, *options, "--name-only", "-z", "HEAD")

    def _untracked(self, besides: Path | None) -> list[str]:
        where = []
        if besides is not None and self.root in besides.resolve().parents:
            where = ["--", ".", f":(exclude,top,literal){besides.resolve().relative_to(self.root)}"]
        names = self._names("ls-files", "--others", "--exclude-standard", "-z", *where)
        return [name for name in names if not name.endswith("/")]  # a repository inside

    def _names(self, *arguments: str) -> list[str]:
        return [os.fsdecode(name) for name in self._checked(*arguments).split(b"\0") if name]

    def _size(self, name: str) -> int:
        path = self.root / name
        return path.lstat().st_size if path.is_symlink() or path.is_file() else 0

    def _checked(
        self, *arguments: str, environment: dict[str, str] | None = None, stdin: bytes = b""
    ) -> bytes:
        out = self._git(*arguments, environment=environment, stdin=stdin)
        if out is None:
            raise GitError(f"git {' '.join(arguments[:2])} failed in {self.root}")
        return out

    def _git(
        self, *arguments: str, environment: dict[str, str] | None = None, stdin: bytes = b""
    ) -> bytes | None:
        """Return what a git command prints; None if it fails or git is not installed."""
        # Inside a hook, git's own variables name another repository.
        known = {
            k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith("GIT_CONFIG")
        }
        command = ["git", "-C", str(self.root), "-c", f"safe.directory={self.root}", *arguments]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                input=stdin,
                timeout=_TIMEOUT,
                check=True,
                env=known | (environment or {}),
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout


def package_commit(package: Path = PACKAGE) -> str | None:
    """Return the commit of this package, wherever the shell stands.

    Args:
        package: The folder of its source.

    Returns:
        The commit of the repository that holds the source, or the one that pip was told to install; None for a
        wheel, of which only the version is known.
    """
    repository = Repository.of(package / "__init__.py", tracked=True)
    return repository.commit if repository else _installed_commit(package)


def record_code(
    run: Path, folders: Iterable[Path] = (), package: Path = PACKAGE, runs: Path | None = None
) -> JsonObject:
    """Write what is not committed of the code into a run directory, and describe the code.

    Args:
        run: The run directory.
        folders: Where the experiment's own files are; modules that were imported from elsewhere count, too.
        package: The folder of this package's source.
        runs: The folder of all runs, whose files are no code; the one around the run's experiment unless given.

    Returns:
        "commit", "dirty" (whether anything was not committed; None if git cannot tell), "patch" (its file),
        "patch_sha256" and "patch_left_out" (how many files were too large for it); and under "user_code" the same
        for each other repository, with its "folder".
    """
    ours = Repository.of(package / "__init__.py", tracked=True)
    runs = runs or run.absolute().parent.parent
    facts = (
        _record(ours, run, CODE_PATCH, runs)
        if ours
        else {"commit": _installed_commit(package), "dirty": False}
    )
    tops = dict.fromkeys(_top(path.resolve()) for path in (*folders, *_imported()))
    found = [Repository.of(top) for top in tops if top is not None]  # each is asked once
    others = [other for other in found if other is not None and other != ours]
    names = [USER_CODE_PATCH, *(USER_CODE_PATCH.replace(".", f"_{i}.") for i in range(2, len(others) + 1))]
    users = [
        {"folder": str(other.root), **_record(other, run, name, runs)}
        for other, name in zip(others, names, strict=False)
    ]
    return facts | ({"user_code": users} if users else {})


def _record(repository: Repository, run: Path, name: str, runs: Path) -> JsonObject:
    try:
        patch, left_out = repository.patch(besides=runs)
    except GitError as error:
        print(f"WARNING  whether all code is committed is not known: {error}", file=sys.stderr)
        return {"commit": repository.commit, "dirty": None}
    facts: JsonObject = {"commit": repository.commit, "dirty": bool(patch or left_out)}
    if facts["dirty"]:
        # git apply skips what stands before the first "diff" line.
        head = [f"Not committed in {repository.root.name} on {facts['commit']}."]
        head += [f"Left out, because it is too large: {file}" for file in left_out[:_MOST_NAMED]]
        head += [f"And {len(left_out) - _MOST_NAMED} more files."] if len(left_out) > _MOST_NAMED else []
        (run / name).write_bytes("\n".join([*head, "", ""]).encode(errors="surrogateescape") + patch)
        facts |= {"patch": name, "patch_sha256": hashlib.sha256(patch).hexdigest()}
        facts |= {"patch_left_out": len(left_out)} if left_out else {}
    return facts


def _top(path: Path) -> Path | None:
    """Return the folder of the repository around a path, if there is one."""
    folder = path if path.is_dir() else path.parent
    return next((p for p in (folder, *folder.parents) if (p / ".git").exists()), None)


def _imported() -> list[Path]:
    """List the folders of modules that are neither installed nor Python's own, such as the user's."""
    own = tuple(os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib", "scripts"))
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    folders = {os.path.dirname(file) for file in files if os.path.isabs(file) and not file.startswith(own)}
    installed = {"site-packages", "dist-packages"}
    return sorted(Path(folder) for folder in folders if installed.isdisjoint(folder.split(os.sep)))


def _installed_commit(package: Path) -> str | None:
    """Return the commit that pip installed from, as ``pip install git+https://...`` notes it (PEP 610)."""
    try:
        distribution = metadata.distribution("lightning_seg")
        if Path(str(distribution.locate_file(package.name))).resolve() != package:
            return None
        noted = json.loads(distribution.read_text("direct_url.json") or "{}")
        return str(noted["vcs_info"]["commit_id"])
    except (metadata.PackageNotFoundError, ValueError, KeyError):
        return None
