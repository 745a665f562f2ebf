"""The transaction log that W&B keeps of a run, ``run-<id>.wandb``: reading it, and mending it after a move.

Records are protobuf messages in the framing of LevelDB's logs: blocks of 32 KiB, chunks with a header of CRC-32,
length and kind. W&B's supported reader, ``wandb leet inspect --json``, does not do: a log has to be written again
where its run directory was moved, a checkpoint was replaced, or the data has to become an input, and its JSON is no way
back to protobuf messages; and it takes 1.4 s for a log that is read here in milliseconds, once to look whether a run
still goes on and once to count what should arrive. Written for wandb 0.31; tests/tracking/test_sync.py holds it to that
command.
"""

import hashlib
import os
import re
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("<4sHB")  # of the file
_CHUNK = struct.Struct("<IHB")
_BLOCK = 32768
_INSIDE = re.compile(
    r".*/((?:wandb/data|checkpoints)/.*)"
)  # where in a run directory an artifact's file may lie
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def read_log(file: Path) -> Iterator[Any]:
    """Read the records of a log; of one that was cut off, those that are whole.

    Args:
        file: The ``.wandb`` file.

    Yields:
        Messages of ``wandb.proto.wandb_internal_pb2.Record``.

    Raises:
        ValueError: This is no such log.
    """
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    content = file.read_bytes()
    if content[:4] != b":W&B":
        raise ValueError(f"{file} is no log of W&B")
    at, message = _HEADER.size, b""
    while at + _CHUNK.size <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _CHUNK.size:
            at += left
            continue
        crc, length, kind = _CHUNK.unpack_from(content, at)
        part = content[at + _CHUNK.size : at + _CHUNK.size + length]
        if kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST) or _crc(kind, part) != crc:
            return  # the process was killed while it wrote this
        at += _CHUNK.size + length
        message = part if kind in (_WHOLE, _FIRST) else message + part
        if kind in (_WHOLE, _LAST):
            record = Record()
            record.ParseFromString(message)
            yield record


def write_log(file: Path, records: Iterable[Any]) -> None:
    """Write a log.

    Args:
        file: The ``.wandb`` file; it is replaced when all of it is written.
        records: Messages of ``wandb.proto.wandb_internal_pb2.Record``.
    """
    content = bytearray(_HEADER.pack(b":W&B", 0xBEE1, 0))
    for record in records:
        message, first = record.SerializeToString(), True
        while first or message:
            left = _BLOCK - len(content) % _BLOCK
            if left < _CHUNK.size:
                content += bytes(left)
                continue
            part, message = message[: left - _CHUNK.size], message[left - _CHUNK.size :]
            kind = (_FIRST if message else _WHOLE) if first else (_MIDDLE if message else _LAST)
            content += _CHUNK.pack(_crc(kind, part), len(part), kind) + part
            first = False
    temporary = file.with_suffix(".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, file)


def mend(file: Path, run_dir: Path) -> list[str]:
    """Make a log ready to be uploaded from where its run directory is now.

    W&B writes down absolute paths of the files of artifacts, and leaves an artifact out, silently, if a file is not
    there. Offline it knows no inputs: data sets are made inputs here. An artifact whose file has changed, such as
    the last checkpoint of a run that was resumed since, is taken out of the log.

    Args:
        file: The ``.wandb`` file.
        run_dir: The run directory it lies in.

    Returns:
        The artifacts that cannot be uploaded because a file of theirs is gone or has changed.
    """
    records, different, lost = [], False, []
    for record in read_log(file):
        before = record.SerializeToString()
        if record.WhichOneof("record_type") == "artifact":
            artifact = record.artifact
            artifact.use_after_commit = artifact.use_after_commit or artifact.type == "dataset"
            for entry in artifact.manifest.contents:
                if entry.local_path:
                    entry.local_path = _INSIDE.sub(lambda found: str(run_dir / found[1]), entry.local_path)
            if not has_files(artifact):
                lost.append(f"{artifact.type} {artifact.name}")
            elif any(map(_has_changed, artifact.manifest.contents)):
                lost.append(f"{artifact.type} {artifact.name}")
                different = True
                continue
        different |= record.SerializeToString() != before
        records.append(record)
    if different:
        write_log(file, records)
    return lost


def has_files(artifact: Any) -> bool:
    """Tell whether all files of an artifact are there."""
    return all(os.path.isfile(entry.local_path) for entry in artifact.manifest.contents if entry.local_path)


def _has_changed(entry: Any) -> bool:
    if not os.path.isfile(entry.local_path):
        return False
    with open(entry.local_path, "rb") as file:
        return b64encode(hashlib.file_digest(file, "md5").digest()).decode() != entry.digest


def _crc(kind: int, part: bytes) -> int:
    return zlib.crc32(part, zlib.crc32(bytes([kind])))
