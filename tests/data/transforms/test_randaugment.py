import cv2
import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.instances import augment, boxes_from_masks
from lightning_seg.data.transforms.geometry import RandomHorizontalFlip, RandomScaleCrop
from lightning_seg.data.transforms.mixing import ClassMix, CutMix, MixUp
from lightning_seg.data.transforms.randaugment import Cutout, RandAugment
from lightning_seg.errors import UserError

EXACT = v2.InterpolationMode.NEAREST
MOVING = {
    "rotation": v2.RandomRotation(40, interpolation=EXACT),
    "translation": v2.RandomAffine(0, translate=(0.4, 0.4), interpolation=EXACT),
    "scaling": v2.RandomAffine(0, scale=(0.5, 1.6), interpolation=EXACT),
    "shear": v2.RandomAffine(0, shear=(-25, 25, -25, 25), interpolation=EXACT),
    "perspective": v2.RandomPerspective(p=1, interpolation=EXACT),
    "elastic": v2.ElasticTransform(alpha=60.0, interpolation=EXACT),
    "horizontal flip": v2.RandomHorizontalFlip(p=1),
    "vertical flip": v2.RandomVerticalFlip(p=1),
    "crop": v2.Compose([v2.RandomCrop(40), v2.Resize((64, 64), interpolation=EXACT)]),
    "padding": v2.RandomCrop(64, padding=12),
    "zoom out": v2.Compose([v2.RandomZoomOut(p=1), v2.RandomCrop(64)]),
    "cutout": Cutout(holes=3, p=1),
    "one of": v2.RandomChoice([v2.RandomRotation(90), v2.RandomVerticalFlip(1)]),
}
COLORING = {
    "brightness, contrast, saturation, hue": v2.ColorJitter(0.5, 0.5, 0.5, 0.2),
    "noise": v2.GaussianNoise(sigma=0.1),
    "blur": v2.GaussianBlur(5),
    "sharpness": v2.RandomAdjustSharpness(3, p=1),
    "posterize": v2.RandomPosterize(3, p=1),
    "solarize": v2.RandomSolarize(128, p=1),
    "equalize": v2.RandomEqualize(p=1),
    "invert": v2.RandomInvert(p=1),
    "grey": v2.RandomGrayscale(p=1),
    "channels": v2.RandomChannelPermutation(),
}
MIXED = {
    "RandAugment": RandAugment(3, 0.8),
    "TrivialAugment": RandAugment(1, None),
}


def data(*transforms, **kwargs):
    """Scenes of which every crop is the whole image, whose color encodes the class."""
    arguments = dict(
        batch_size=2,
        crop_size=(64, 64),
        image_size=(64, 64),
        train_images=8,
        scale_range=(1.0, 1.0),
        hflip=0.0,
    )
    out = Shapes(**{**arguments, **kwargs}, transforms=list(transforms))
    read = out.read
    out.read = lambda sample: (encode(read(sample)[1]), read(sample)[1])
    return out


def encode(mask):
    return np.stack([40 + mask * 35, 230 - mask * 35, np.full_like(mask, 90)], -1)


@pytest.mark.parametrize("name", MOVING)
def test_image_and_mask_move_together_and_what_is_filled_in_is_not_counted(name):
    changed = filled = 0
    before = data()
    for index in range(8):
        sample = Split(data(MOVING[name]), "train", train=True)[1, index]
        image, mask = sample["image"].permute(1, 2, 0).numpy(), sample["mask"].numpy()
        counted = mask != 255
        assert set(np.unique(mask)) <= {*range(6), 255}
        np.testing.assert_array_equal(image[counted], encode(mask)[counted])
        assert (image[~counted] == 0).all()
        changed += (mask != before.read(before.samples("train")[index])[1]).mean()
        filled += (~counted).sum()
    assert changed > 0.1
    if name in ("rotation", "translation", "shear", "padding", "zoom out", "cutout"):
        assert filled > 100


@pytest.mark.parametrize("name", COLORING)
def test_colors_change_the_image_only(name):
    for index in range(4):
        plain = Split(data(), "train", train=True)[1, index]
        sample = Split(data(COLORING[name]), "train", train=True)[1, index]
        assert torch.equal(sample["mask"], plain["mask"]) and sample["image"].dtype == torch.uint8
    assert not torch.equal(sample["image"], plain["image"])


@pytest.mark.parametrize("name", MIXED)
def test_random_augmentation_keeps_labels_and_alignment(name):
    moved = 0
    for index in range(8):
        for epoch in range(6):
            sample = Split(data(MIXED[name]), "train", train=True)[epoch, index]
            mask = sample["mask"].numpy()
            assert set(np.unique(mask)) <= {*range(6), 255} and sample["image"].dtype == torch.uint8
            moved += (mask == 255).any()
    assert moved > 5


def test_random_augmentation_moves_image_and_mask_together():
    """With bilinear interpolation the colors still encode the class away from borders."""
    image, mask = data().read(data().samples("train")[3])
    image = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))
    inverted = tv_tensors.Mask(torch.from_numpy(255 - mask))
    for which in range(5):
        for strength in (-0.7, 0.4):
            out = RandAugment(1).transform(image, {"steps": [(which, strength)]}).permute(1, 2, 0).numpy()
            labels = 255 - RandAugment(1).transform(inverted, {"steps": [(which, strength)]}).numpy()
            counted = labels != 255
            right = (np.abs(out.astype(int) - encode(np.where(counted, labels, 0))).max(-1) <= 1)[counted]
            assert right.mean() > 0.85 and counted.mean() > 0.5


OURS = {
    "scaled crop": RandomScaleCrop((64, 64), (0.3, 2.0)),
    "large-scale jitter": RandomScaleCrop((48, 80), (0.1, 2.0), large_scale_jitter=True),
    "crop around an instance": RandomScaleCrop((30, 30), (1.0, 2.0), class_balanced_crops=1.0),
    "our horizontal flip": RandomHorizontalFlip(1.0),
}


@pytest.mark.parametrize("transform", [*MOVING.values(), *COLORING.values(), *MIXED.values(), *OURS.values()])
def test_instances_keep_their_masks_boxes_and_labels(transform):
    """The color of an instance says its label, so that the image shows whether the three still belong together."""
    exact = transform in [*MOVING.values(), *OURS.values()]
    scenes = data()
    lost = 0
    for number, which in enumerate(scenes.samples("train")):
        before = scenes.read_instances(which)
        before["image"] = tv_tensors.Image(torch.from_numpy(scenes.read(which)[0]).permute(2, 0, 1))
        before["iscrowd"] = before["labels"] > 3
        torch.manual_seed(number)
        after = augment(before, [transform])
        labels, masks = after["labels"], after["masks"]
        assert isinstance(masks, tv_tensors.Mask) and isinstance(after["boxes"], tv_tensors.BoundingBoxes)
        assert len(labels) == len(masks) == len(after["boxes"]) == len(after["iscrowd"])
        assert torch.equal(after["iscrowd"], labels > 3) and masks.dtype == torch.uint8
        assert (masks <= 1).all() and (masks.sum((1, 2)) > 0).all() and (masks.sum(0) <= 1).all()
        torch.testing.assert_close(after["boxes"].as_subclass(torch.Tensor), boxes_from_masks(masks))
        assert after["boxes"].canvas_size == after["image"].shape[-2:] == masks.shape[-2:]
        image = after["image"].permute(1, 2, 0).numpy()
        for label, mask in zip(labels.tolist(), masks.numpy(), strict=True):
            inside = cv2.erode(mask, np.ones((5, 5))) > 0 if transform in OURS.values() else mask > 0
            if exact:  # without interpolation, or where it sees only the instance itself
                assert (image[inside] == encode(np.uint8(label))).all()
        lost += len(before["labels"]) - len(labels)
    if transform is OURS["crop around an instance"]:
        assert lost > 0


def test_cutout_cuts_its_share():
    mask = tv_tensors.Mask(torch.full((64, 64), 200, dtype=torch.uint8))
    shares = [(Cutout(1, 0.5, p=1)(mask) == 0).float().mean().item() for _ in range(200)]
    assert max(shares) == 0.25 and min(shares) >= 0.06  # a corner at least
    assert torch.equal(Cutout(p=0)(mask), mask)


def test_wrong_strengths_are_refused():
    with pytest.raises(UserError, match="strength must be between 0 and 1"):
        RandAugment(strength=2.0)
    with pytest.raises(UserError, match="p of CutMix must be between 0 and 1"):
        CutMix(p=1.5)
    with pytest.raises(UserError, match="Leave out `fill` of RandomApply"):
        data(v2.RandomApply([v2.RandomRotation(10, fill=3)]))


def batch():
    """Three images of one color each, with classes 1 to 3 in stripes of their own, a not counted border."""
    mask = torch.stack(
        [torch.arange(24).div(6, rounding_mode="floor").expand(16, -1) + 10 * i for i in range(3)]
    ).byte()
    mask[:, 0] = 255
    image = torch.arange(3).view(3, 1, 1, 1).expand(3, 3, 16, 24).float() * 50
    return {"image": image.clone(), "mask": mask, "index": torch.arange(3)}


@pytest.mark.parametrize("mix", [CutMix(p=1), ClassMix(p=1)])
def test_pasted_pixels_bring_their_labels(mix):
    torch.manual_seed(0)
    before = batch()
    pasted = 0
    for _ in range(20):
        after = mix(batch())
        partner = {key: before[key].roll(1, 0) for key in ("image", "mask")}
        inside = after["image"][:, 0] == partner["image"][:, 0]
        expected = torch.where(inside, partner["mask"], before["mask"])
        assert torch.equal(after["mask"], expected)
        assert torch.equal(after["image"], torch.where(inside[:, None], partner["image"], before["image"]))
        assert torch.equal(after["index"], before["index"])
        pasted += inside.float().mean().item() / 20
    assert 0.3 < pasted < 0.7


def test_classmix_pastes_whole_classes_and_half_of_them():
    after, before = ClassMix(p=1)(batch()), batch()
    for i in range(3):
        partner = before["mask"][i - 1]
        inside = after["image"][i, 0] == before["image"][i - 1, 0]
        pasted = set(partner[inside].tolist())
        assert len(pasted) == 2 and 255 not in pasted
        assert all((inside == torch.isin(partner, torch.tensor(sorted(pasted)).byte())).ravel())


def test_mixup_blends_images_and_says_how():
    torch.manual_seed(1)
    before, after = batch(), MixUp(p=1)(batch())
    share = after["mix"]
    assert 0 < share < 1
    torch.testing.assert_close(
        after["image"], share * before["image"] + (1 - share) * before["image"].roll(1, 0)
    )
    assert torch.equal(after["mask"], before["mask"]) and torch.equal(
        after["mask2"], before["mask"].roll(1, 0)
    )


def test_mixing_follows_from_seed_and_step():
    class Trainer:
        training, global_step, global_rank = True, 7, 0

    def mixed(step, training=True):
        module = data(mix=CutMix(p=0.7))
        module.trainer = Trainer()
        module.trainer.global_step, module.trainer.training = step, training
        torch.rand(5)
        return module.on_after_batch_transfer(batch(), 0)["image"]

    assert torch.equal(mixed(7), mixed(7))
    assert len({mixed(step)[0].sum().item() for step in range(20)}) > 5
    assert torch.equal(mixed(7, training=False), batch()["image"])
    assert torch.equal(CutMix(p=1)({k: v[:1] for k, v in batch().items()})["image"], batch()["image"][:1])
