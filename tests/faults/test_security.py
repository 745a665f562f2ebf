"""Nothing that comes in a file is run, and no file takes the machine down."""

import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from lightning_seg.data.download import unpack
from lightning_seg.data.io import read_image, read_mask
from lightning_seg.errors import UserError

from .programs import experiment, here


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("security"))


@pytest.mark.parametrize(
    "setting",
    [
        "--model.network=os.system",
        "--model.network.class_path=subprocess.Popen",
        "--model.optimizer=subprocess.run",
        "--model.optimizer={class_path: subprocess.Popen, init_args: {args: [touch, pwned]}}",
        "--model.lr_scheduler=os.system",
        "--model.loss={class_path: subprocess.Popen, init_args: {args: [touch, pwned]}}",
        "--data={class_path: subprocess.Popen, init_args: {args: [touch, pwned]}}",
        "--data.init_args.transforms=[{class_path: subprocess.Popen, init_args: {args: [touch, pwned]}}]",
        "--trainer.callbacks=[{class_path: subprocess.Popen, init_args: {args: [touch, pwned]}}]",
        "--task=subprocess.Popen",
    ],
)
def test_a_class_that_is_not_what_is_expected_is_refused(folder, setting, capsys):
    assert here(folder, "exp", "tiny.yaml", "--name=evil", setting) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (folder / "pwned").exists() and not (folder / "runs/evil").exists()


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system"]
)
def test_yaml_makes_no_objects(folder, tag, capsys):
    (folder / "evil.yaml").write_text((folder / "tiny.yaml").read_text() + f"name: {tag}\n")
    assert here(folder, "exp", "evil.yaml") == 2
    assert "Traceback" not in capsys.readouterr().err and not (folder / "pwned").exists()


def png(width, height, data=b""):
    """A PNG that claims a size."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"), [(1_000_000, 1), (1, 1_000_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)]
)
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_an_image_of_absurd_size_is_refused_before_it_is_decoded(tmp_path, width, height, read):
    path = tmp_path / "bomb.png"
    path.write_bytes(
        png(width, height, zlib.compress(bytes(10**7)))
    )  # ten kilobytes that unpack to a thousand times
    with pytest.raises(UserError, match=r"bomb.png .*: more than 179 megapixels or 65535 pixels a side"):
        read(path)


def test_a_long_strip_that_is_real_is_refused_too(tmp_path):
    Image.fromarray(np.zeros((1, 1_000_000), np.uint8)).save(tmp_path / "strip.png")
    with pytest.raises(UserError, match="strip.png is 1000000x1 pixels"):
        read_mask(tmp_path / "strip.png")


def test_a_text_chunk_that_unpacks_to_a_gigabyte_is_refused(tmp_path):
    good = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(good, "png")
    content = b"k\0\0" + zlib.compress(bytes(10**8), 9)
    chunk = (
        struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    )
    data = good.getvalue()
    (tmp_path / "text.png").write_bytes(data[:33] + chunk + data[33:])
    with pytest.raises(UserError, match=r"text.png cannot be read"):
        read_image(tmp_path / "text.png")


def test_an_archive_writes_nowhere_else(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    with tarfile.open(tmp_path / "evil.tar", "w") as file:
        for name in ("../outside.txt", "/tmp/outside-of-everything.txt"):
            info = tarfile.TarInfo(name)
            info.size = 2
            file.addfile(info, io.BytesIO(b"hi"))
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(tmp_path / "evil.tar", inside)
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../outside.txt", "hi")
    unpack(tmp_path / "evil.zip", inside)
    assert not (tmp_path / "outside.txt").exists()
