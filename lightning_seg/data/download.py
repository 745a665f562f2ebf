"""Downloads that continue where they stopped and are checked before they are used."""

import hashlib
import os
import tarfile
import urllib.error
import urllib.request
import zipfile
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlparse

from lightning_seg.errors import UserError

TIMEOUT = 20  # seconds without a byte


def fetch(url: str, folder: Path, md5: str, present: Path) -> None:
    """Download an archive into a folder and unpack it there, unless that was done before.

    Args:
        url: Address of a .tar, .tar.gz, .tgz or .zip file.
        folder: Where to put and unpack it.
        md5: Checksum of the archive.
        present: What the archive brings; if it exists, nothing is done.

    Raises:
        UserError: If it cannot be downloaded, is damaged, or would write outside the folder.
    """
    archive = folder / Path(urlparse(url).path).name
    unfinished = archive.with_name(archive.name + ".unpacking")
    if present.exists() and not unfinished.exists():
        return
    download(url, archive, md5)
    unfinished.touch()
    unpack(archive, folder)
    unfinished.unlink()


def download(url: str, path: Path, md5: str) -> None:
    """Download one file, with a progress bar; a second call continues a broken first one.

    Args:
        url: Address.
        path: Where to put it.
        md5: Checksum of the complete file.

    Raises:
        UserError: If the address cannot be reached or the checksum differs.
    """
    if path.is_file() and _md5(path) == md5:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if response.status != 206:  # the server starts again from the beginning
                done = 0
            _write(response, part, done)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to send, the part is the whole
            raise _unreachable(url, path, error) from None
    except OSError as error:
        raise _unreachable(url, path, error) from None
    if (found := _md5(part)) != md5:
        part.unlink()
        raise UserError(f"{url} has the checksum {found}, expected {md5}. It was deleted; try again.")
    os.replace(part, path)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip file; members that point outside the folder are refused.

    Raises:
        UserError: If the archive is damaged or malicious.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:  # drops "..", drives and links by itself
                file.extractall(folder)
        else:
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}). Delete it and download it again.") from None


def _write(response: HTTPResponse, part: Path, done: int) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    total = done + response.length if response.length is not None else None
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(part.stem, *columns) as progress, part.open("ab" if done else "wb") as file:
        task = progress.add_task("", total=total, completed=done)
        while chunk := response.read(1 << 20):
            file.write(chunk)
            progress.advance(task, len(chunk))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unreachable(url: str, path: Path, error: OSError) -> UserError:
    reason = getattr(error, "reason", None) or error
    return UserError(
        f"{url} cannot be downloaded ({reason}).\n"
        f"Try again (it continues where it stopped), or get the file elsewhere and put it at {path}."
    )
