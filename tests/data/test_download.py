import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import pytest

from lightning_seg.data.download import download, fetch, unpack
from lightning_seg.errors import UserError

CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    files = {}
    ranges = True
    requests = []

    def do_GET(self):
        content, start = self.files[self.path], 0
        self.requests.append(self.headers.get("Range"))
        if self.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Handler, "files", {"/a.bin": CONTENT})
    monkeypatch.setattr(Handler, "requests", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_download_and_no_second_download(server, tmp_path):
    path = tmp_path / "deep" / "a.bin"
    for _ in range(2):
        download(f"{server}/a.bin", path, MD5)
        assert path.read_bytes() == CONTENT
    assert Handler.requests == [None]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("there", [1, 70000, len(CONTENT)])
def test_a_broken_download_continues(server, tmp_path, ranges, there, monkeypatch):
    monkeypatch.setattr(Handler, "ranges", ranges)
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:there])
    download(f"{server}/a.bin", tmp_path / "a.bin", MD5)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert Handler.requests == [f"bytes={there}-"]


def test_a_wrong_checksum_is_refused_and_the_file_removed(server, tmp_path):
    with pytest.raises(UserError, match="checksum"):
        download(f"{server}/a.bin", tmp_path / "a.bin", "0" * 32)
    assert list(tmp_path.iterdir()) == []


def archive(kind, members):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as file:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_fetch_unpacks_once_and_again_after_an_interruption(server, tmp_path, kind):
    content = archive(kind, {"set/a.txt": b"hello"})
    Handler.files[f"/set.{kind}"] = content
    arguments = f"{server}/set.{kind}", tmp_path, hashlib.md5(content).hexdigest(), tmp_path / "set"
    fetch(*arguments)
    assert (tmp_path / "set/a.txt").read_bytes() == b"hello"
    fetch(*arguments)
    assert len(Handler.requests) == 1
    (tmp_path / "set/a.txt").unlink()
    (tmp_path / f"set.{kind}.unpacking").touch()  # what an interrupted run leaves
    fetch(*arguments)
    assert (tmp_path / "set/a.txt").read_bytes() == b"hello" and len(Handler.requests) == 1


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/lightning_seg_evil.txt"])
def test_nothing_is_written_outside_the_folder(tmp_path, kind, name):
    (tmp_path / "in").mkdir()
    path = tmp_path / f"a.{kind}"
    path.write_bytes(archive(kind, {name: b"evil"}))
    try:
        unpack(path, tmp_path / "in")
    except UserError as error:
        assert "cannot be unpacked" in str(error)
    outside = [p for p in tmp_path.rglob("*evil*") if not p.is_relative_to(tmp_path / "in")]
    assert outside == []


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"nothing")
    with pytest.raises(UserError, match="a.tar cannot be unpacked"):
        unpack(tmp_path / "a.tar", tmp_path)
