"""The page of a comparison served on this machine, where any test image can be predicted when it is asked for."""

import io
import re
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lightning_seg.analysis.report.report import Heading, page
from lightning_seg.analysis.tables import Comparison
from lightning_seg.errors import UserError


class Prediction(NamedTuple):
    """A test image (H, W, 3), its mask (H, W) and the predicted labels (H, W), all ``uint8``."""

    image: np.ndarray
    mask: np.ndarray
    labels: np.ndarray


class ReportServer(ThreadingHTTPServer):
    """Serves one comparison at http://127.0.0.1:PORT/, to this machine alone.

    Args:
        comparison: What was found.
        heading: What the page is about.
        predict: Predicts the test image at a position with the run of a directory.
        port: Port of the loopback address; 0 takes a free one.

    Raises:
        UserError: The port is taken.
    """

    daemon_threads = True

    def __init__(
        self,
        comparison: Comparison,
        heading: Heading,
        predict: Callable[[Path, int], Prediction],
        port: int = 0,
    ) -> None:
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used ({error.strerror}); choose another, --port=0 a free one"
            ) from error
        self.page = page(comparison, heading, live=True).encode()
        self.sections = comparison.sections
        self._one_at_a_time = threading.Lock()
        self._predict = lru_cache(maxsize=64)(predict)

    @property
    def address(self) -> str:
        """What to type into a browser."""
        return f"http://127.0.0.1:{self.server_port}/"

    def picture(self, section: int, image: int, what: str) -> tuple[str, bytes]:
        """Return type and bytes of a picture: ``image``, ``truth``, or the labels by the group of a number.

        Of several seeds the run with the median score predicts.

        Raises:
            IndexError: There is no such section, group or image.
        """
        groups = self.sections[section].groups
        group = groups[int(what) if what.isdigit() else self.sections[section].reference]
        records = sorted(group.records, key=lambda record: record.score("miou"))
        record = records[len(records) // 2]
        if not 0 <= image < len(record.image_names):
            raise IndexError(image)
        with self._one_at_a_time:
            found = self._predict(record.path, image)
        kind, pixels = (
            ("JPEG", found.image)
            if what == "image"
            else ("PNG", found.mask if what == "truth" else found.labels)
        )
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        return f"image/{kind.lower()}", file.getvalue()


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer

    def do_GET(self) -> None:
        """Answer with the page, or a picture."""
        asked = re.fullmatch(r"/picture/(\d+)/(\d+)/(image|truth|\d+)", self.path)
        if self.headers.get("Host", "").rpartition(":")[0] not in ("127.0.0.1", "localhost"):
            self.send_error(403)  # a page from elsewhere whose name was made to point here
        elif self.path == "/":
            self._send("text/html; charset=utf-8", self.server.page)
        elif asked:
            try:
                self._send(*self.server.picture(int(asked[1]), int(asked[2]), asked[3]))
            except IndexError:
                self.send_error(404)
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                self.send_error(500)
        else:
            self.send_error(404)

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal is for what went wrong."""
