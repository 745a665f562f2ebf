import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_seg.data import cache as module
from lightning_seg.data.cache import cache_key
from lightning_seg.data.cache_folder import cache_folder
from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.camvid import CamVid
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.datasets.voc import VOC
from lightning_seg.errors import UserError
from tests.processes import run_ranks


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LIGHTNING_SEG_CACHE", str(folder))
    return folder


def camvid_data(root, **kwargs):
    arguments = {"batch_size": 2, "crop_size": (32, 32), "test_split": "val", "num_workers": 0}
    return CamVid(str(root), **{**arguments, **kwargs})


@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
def test_cached_samples_are_the_same(voc, cache, workers):
    def batches(**kwargs):
        data = VOC(str(voc), batch_size=2, crop_size=(48, 48), **kwargs)
        data.setup("fit")
        return [*data.train_dataloader(), *data.val_dataloader()]

    plain, cached = batches(num_workers=0), batches(num_workers=workers, cache=cache)
    assert len(plain) == len(cached) == 7
    for one, other in zip(plain, cached, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_cache_is_read_instead_of_the_files(camvid, monkeypatch):
    camvid_data(camvid, cache="disk").setup("fit")
    data = camvid_data(camvid, cache="disk")
    monkeypatch.setattr(CamVid, "read", None)  # not called
    assert Split(data, "train")[3]["image"].shape == (3, 48, 64)


def test_writing_into_a_sample_does_not_reach_the_file(camvid):
    data = camvid_data(camvid, cache="disk")
    data.cached("train")[0][0][:] = 7
    image, _ = camvid_data(camvid, cache="disk").cached("train")[0]
    assert (image != 7).any()


def test_workers_that_are_not_forked_open_the_file_themselves(camvid):
    split = Split(camvid_data(camvid, cache="disk"), "train")
    packed = pickle.dumps(split)
    assert len(packed) < 20_000
    assert torch.equal(pickle.loads(packed)[2]["image"], split[2]["image"])


def key(data, split="train"):
    return cache_key(data, split, data.samples(split))


def test_another_file_setting_or_split_is_another_cache(camvid):
    first = key(camvid_data(camvid))
    assert first == key(
        camvid_data(camvid, batch_size=5, crop_size=(8, 8), scale_range=(1, 1), seed=4, num_workers=1)
    )
    assert first != key(camvid_data(camvid), "val")
    path = camvid_data(camvid).samples("train")[0][1]
    os.utime(path, ns=(1, 1))
    assert first != key(camvid_data(camvid))

    def folder(**kwargs):
        arguments = {"images": "train", "masks": "trainannot", "batch_size": 1, "crop_size": (8, 8)}
        data = Folder(str(camvid), [f"class {i}" for i in range(12)], **arguments, **kwargs)
        return cache_key(data, "train", [])

    assert len({folder(), folder(labels={1: 2}), folder(colors=[(i, 0, 0) for i in range(12)])}) == 3


def test_changed_files_are_read_again(camvid):
    before = camvid_data(camvid, cache="disk").cached("train")[4][1].copy()
    path = camvid_data(camvid).samples("train")[4][1]
    Image.fromarray(np.full((48, 64), 3, np.uint8)).save(path)
    after = camvid_data(camvid, cache="disk").cached("train")[4][1]
    assert (before != 3).any() and (after == 3).all()


def build_cache(root, folder):
    """Build the cache, or wait for the process that does, and write the sum of all values."""
    data = CamVid(str(root), batch_size=1, crop_size=(8, 8), cache="disk")
    total = sum(int(image.sum()) + int(mask.sum()) for image, mask in data.cached("train"))
    (folder / f"sum-{os.environ['RANK']}").write_text(str(total))


def test_two_processes_build_one_cache(camvid, elsewhere, tmp_path):
    run_ranks(2, build_cache, camvid, tmp_path)
    sums = {int(file.read_text()) for file in tmp_path.glob("sum-*")}
    data = camvid_data(camvid)
    assert sums == {sum(int(part.sum()) for sample in data.samples("train") for part in data.read(sample))}
    assert len([path for path in elsewhere.iterdir() if path.is_dir()]) == 1


def test_an_interrupted_build_is_built_again(camvid, elsewhere, monkeypatch):
    write = module._write

    def interrupted(pairs, folder):
        write(list(pairs)[:2], folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        camvid_data(camvid, cache="disk").cached("train")
    monkeypatch.setattr(module, "_write", write)
    assert len(camvid_data(camvid, cache="disk").cached("train")) == 10
    assert not list(elsewhere.glob("*.building"))


def test_what_does_not_fit_is_refused_with_a_way_out(camvid, monkeypatch):
    monkeypatch.setattr(module, "_free_memory", lambda: 1000.0)
    with pytest.raises(UserError, match="--data.init_args.cache=disk"):
        camvid_data(camvid, cache="ram").cached("train")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="LIGHTNING_SEG_CACHE"):
        camvid_data(camvid, cache="disk").cached("train")


def test_a_damaged_file_is_named_and_leaves_no_cache(camvid, elsewhere):
    path = camvid_data(camvid).samples("train")[4][0]
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=path.name):
        camvid_data(camvid, cache="disk").cached("train")
    assert not list(elsewhere.glob("*/index.npy"))


def test_the_test_split_is_not_cached(camvid):
    data = camvid_data(camvid, cache="ram", val_split="train", test_split="val")
    assert data.cached("val") is None and len(data.cached("train")) == 10


def test_the_place_of_caches(monkeypatch):
    monkeypatch.setenv("LIGHTNING_SEG_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("LIGHTNING_SEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/of/caches")
    assert cache_folder() == Path("/home/of/caches/lightning_seg")


def test_a_data_set_without_a_source_file_has_a_cache_of_its_own(camvid):
    def typed(number):
        names = {"CamVid": CamVid}
        exec(
            f"class Typed(CamVid):\n    def read(self, sample): return {number}", names
        )  # as in an interpreter
        return names["Typed"](str(camvid), batch_size=1, crop_size=(8, 8))

    assert key(typed(1)) == key(typed(1)) != key(typed(2))
