"""Measure a comparison of 200 runs, ``python -m tests.analysis.measure_report``: command, size, and page in a browser."""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.runs.made_runs import make_run, simulate

READY = """<script>addEventListener("load", () => {
  const at = performance.now(), click = document.querySelectorAll("#ranking th button")[1];
  click.click();
  document.title = `ready ${at.toFixed(0)} ms, sorting ${(performance.now() - at).toFixed(0)} ms`;
});</script></body>"""


def make_runs(folder: Path, runs: int = 200, images: int = 100, classes: int = 19) -> None:
    """Write runs of 40 experiments with 300 rows of curves; those of one experiment share their pictures."""
    rng = np.random.default_rng(0)
    photo = np.kron(rng.integers(0, 255, (20, 30, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    truth = np.kron(rng.integers(0, classes, (20, 30), np.uint8), np.ones((16, 16), np.uint8))
    for i in range(runs):
        prediction = np.where(rng.random(truth.shape) < 0.95, truth, 0).astype(np.uint8)
        parts = [(k, photo, truth, prediction) for k in range(6)] if i < 60 else ()
        counts = simulate(rng, shift=rng.normal(0, 0.05), images=images, classes=classes)
        matrix = rng.integers(0, 10**6, (classes, classes))
        make_run(folder, f"e{i % 40}", i // 40, counts=counts, rows=150, parts=parts, confusion=matrix)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder, file = Path(place, "runs"), Path(place, "report.html")
        make_runs(folder)
        for options in ([], ["--html", str(file)]):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "lightning_seg", "compare", str(folder), *options],
                check=True,
                capture_output=True,
            )
            print(f"compare {' '.join(options[:1]):<6} {time.perf_counter() - start:.1f} s")
        print(f"page           {file.stat().st_size / 1e6:.1f} MB")
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if browser:
            file.write_text(file.read_text().replace("</body>", READY))
            flags = [
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--dump-dom",
                f"--user-data-dir={place}/profile",
            ]
            out = subprocess.run(
                [browser, *flags, file.as_uri()], capture_output=True, text=True, timeout=120
            ).stdout
            print(f"browser        {re.search('<title>(.*?)</title>', out)[1]}")


if __name__ == "__main__":
    main()
