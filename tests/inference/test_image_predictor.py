"""Single test images are predicted as the test predicted them."""

import json
import subprocess
import urllib.request

import numpy as np
import pytest

from lightning_seg.errors import UserError
from lightning_seg.experiment.image_predictor import ImagePredictor
from lightning_seg.runs.directory import TEST_IMAGES
from lightning_seg.runs.records import read
from tests.processes import forked_python


def test_counts_are_those_of_the_test(runs):
    predict = ImagePredictor()
    for run in runs:
        record = read(run)
        for index, counts in enumerate(record.counts):
            _, mask, labels = predict(run, index)
            kept = mask != 255
            classes = np.arange(len(counts))[:, None, None]
            mine = [(labels == classes) & (mask == classes), (labels == classes) & kept, mask == classes]
            np.testing.assert_array_equal(np.stack([m.sum((1, 2)) for m in mine], 1), counts)


def test_changed_data_is_said(runs, tmp_path):
    import shutil

    run = tmp_path / "unet" / runs[0].name
    shutil.copytree(runs[0], run)
    with np.load(run / TEST_IMAGES) as known:
        content = dict(known)
    content["names"][2] = "another"
    np.savez(run / TEST_IMAGES, **content)
    with pytest.raises(UserError, match="'another' at position 2, but .* has other ones now"):
        ImagePredictor()(run, 2)


def test_compare_serves_the_page_and_its_pictures(runs):
    command = [forked_python(), "-m", "lightning_seg", "compare", str(runs[0].parent), "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = next(line.split()[1] for line in server.stdout if line.startswith("report: "))
            with urllib.request.urlopen(address, timeout=60) as answer:
                data = answer.read().decode().partition('id="data">')[2].partition("</script>")[0]
            assert json.loads(data)["live"] is True
            with urllib.request.urlopen(f"{address}picture/0/0/0", timeout=120) as answer:
                assert answer.read().startswith(b"\x89PNG")
        finally:
            server.terminate()
