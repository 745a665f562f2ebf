"""A frozen backbone's features: computed once for each image, and nothing else changes."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_seg.data.pixels import Scaling
from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.feature_cache import FeatureCache
from lightning_seg.networks.backbones.feature_folder import FeatureFolder, folder_of
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.linear import Linear
from lightning_seg.networks.unet import UNet
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.finetune.policies import Frozen

IMAGES = torch.randint(256, (8, 3, 40, 33), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Samples:
    """The same eight images in every epoch."""

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return {"image": IMAGES[index], "mask": IMAGES[index, 0] % 3, "index": index}


class Tested(Samples):
    """Eight others, as those of a test split are."""

    def __getitem__(self, index):
        return {"image": IMAGES[index].flip(1), "mask": IMAGES[index, 0] % 3, "index": index}


def fit(policy, tested=None):
    """Train three epochs of double precision (in single, rounding grows to a thousandth) with shuffled batches.

    Args:
        policy: What is frozen, and what is kept of it.
        tested: A list that gets the counts (N, C, 3) of a test.

    Returns:
        The network, and how many images it looked at each time.
    """
    torch.manual_seed(0)
    network = UNet(3, "test_resnet", weights=False, decoder_channels=(16, 8, 8, 8, 8))
    seen = []
    network.backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    task = SemanticSegmentation(
        network, lambda g: torch.optim.SGD(g, lr=0.1), ("a", "b", "c"), finetune=policy
    )
    generator = torch.Generator().manual_seed(1)
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, precision="64-true",
    )  # fmt: skip
    trainer.fit(
        task, DataLoader(Samples(), batch_size=4, shuffle=True, generator=generator), DataLoader(Samples(), 3)
    )
    if tested is not None:
        trainer.test(task, DataLoader(Tested(), 3), verbose=False)
        tested.append(task.per_image)
    return network, seen


def test_training_is_the_same_and_looks_at_each_image_once():
    plain, seen = fit(Frozen())
    cached, seen_once = fit(Frozen(cache_gb=1))
    assert (
        sum(seen) == 3 * (8 + 8) + 6 and sum(seen_once) == 8
    )  # and two batches of the check before training
    assert cached._feature_cache is None  # nothing of it is left
    for (name, a), b in zip(plain.state_dict().items(), cached.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_maps_of_each_image_are_its_own_in_any_batch(layout):
    network = UNet(3, "test_resnet", weights=False).eval()
    compute = lambda images: network.backbone(network.backbone.normalize(images))  # noqa: E731
    cache = FeatureCache(1)
    for positions in ([0, 1, 2], [2, 0], [5, 1, 1, 7], [7, 5, 2]):
        images = IMAGES[positions].contiguous(memory_format=layout)
        with torch.no_grad():
            found = cache(images, lambda some, images=images: compute(images[some]))
            expected = compute(images)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert all(
        maps.is_contiguous(memory_format=torch.channels_last) for maps in found
    )  # as convolutions like it


def test_the_same_numbers_of_another_kind_are_another_image():
    cache, calls = FeatureCache(1), []
    for images in (IMAGES, IMAGES.float(), IMAGES.transpose(2, 3)):
        cache(images, lambda some: (calls.append(len(some)), [torch.zeros(len(some), 1, 1, 1)])[1])
    with torch.autocast("cpu", torch.bfloat16):
        cache(IMAGES, lambda some: (calls.append(len(some)), [torch.zeros(len(some), 1, 1, 1)])[1])
    assert calls == [8] * 4


def test_memory_is_limited_and_waste_is_said():
    maps = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 250, 1, 1)  # 1000 bytes for each image
    cache, calls = FeatureCache(3e-6), []
    compute = lambda some: (calls.append(some.tolist()), [maps[some]])[1]  # noqa: E731
    with pytest.warns(UserWarning, match="no image came twice"):
        cache(IMAGES, compute)
    (found,) = cache(IMAGES, compute)
    assert calls == [list(range(8)), [3, 4, 5, 6, 7]] and torch.equal(found, maps)


def test_features_that_move_are_not_kept():
    with pytest.raises(UserError, match="batch_norm: train"):
        Frozen("train", cache_gb=1)


def test_runs_share_features_on_disk(tmp_path, monkeypatch):
    """The second run looks at no image, of the test neither; what is kept in memory is of no use to a test."""
    monkeypatch.setenv("LIGHTNING_SEG_CACHE", str(tmp_path))
    scores: list[object] = []
    plain, seen_in_memory = fit(Frozen(cache_gb=1), scores)
    runs = [fit(Frozen(cache_gb=1, cache_on="disk"), scores) for _ in range(2)]
    assert [sum(seen) for seen in (seen_in_memory, *(seen for _, seen in runs))] == [16, 16, 0]
    assert (scores[0] == scores[1]).all() and (scores[0] == scores[2]).all()
    for network, _ in runs:
        assert network._feature_cache is None  # nothing of it is left
        for (name, a), b in zip(plain.state_dict().items(), network.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=name)
    (folder,) = (tmp_path / "features").iterdir()
    assert len([*folder.iterdir()]) == 16  # nothing half written


def test_other_weights_have_another_folder_and_a_full_one_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_SEG_CACHE", str(tmp_path))
    backbones = [UNet(3, "test_resnet", weights=False).backbone for _ in range(2)]
    assert len({folder_of(b) for b in backbones}) == 2 and folder_of(backbones[0]) == folder_of(backbones[0])
    backbones[0].double()
    assert folder_of(backbones[0]) != folder_of(backbones[1])
    maps = [torch.rand(3, 2, 2, dtype=torch.bfloat16), torch.rand(5, 1, 1)]
    folder = FeatureFolder(tmp_path / "some", 1e-6)
    assert folder.write(b"one", maps) and all(map(torch.equal, folder.read(b"one"), maps))
    assert sum(folder.write(bytes([i]), maps) for i in range(9)) < 9
    again = FeatureFolder(tmp_path / "some", 1e-6)
    assert not again.write(b"three", maps) and again.read(b"three") is None
    with pytest.raises(UserError, match="cache_on: disk needs to know how much to keep"):
        Frozen(cache_on="disk")


def test_another_normalization_has_another_folder():
    """Of the same files, whose values mean something else."""
    backbone = TimmBackbone("test_resnet", False)
    folders = {folder_of(backbone)}
    for white in (4095.0, 65535.0):
        backbone.normalize_as(Scaling((0.0,) * 3, (white,) * 3))
        folders.add(folder_of(backbone))
    assert len(folders) == 3


def test_networks_share_no_features_that_differ(tmp_path, monkeypatch):
    """Of one backbone: other blocks of it, their norm, and images padded otherwise."""
    monkeypatch.setenv("LIGHTNING_SEG_CACHE", str(tmp_path))
    settings = [{}, {"out_indices": 1}, {"out_indices": 1, "norm": False}, {"out_indices": 2, "norm": True}]
    backbones = [TimmBackbone("test_vit", False, backbone_args={"depth": 4}, **s) for s in settings]
    for backbone in backbones[1:]:
        backbone.load_state_dict(backbones[0].state_dict(), strict=False)
    assert len({folder_of(b) for b in backbones}) == 4
    images = torch.randint(256, (2, 3, 40, 50), dtype=torch.uint8)
    for network in (Linear(3, backbones[0]), UNet(3, backbones[0])):  # of strides 16 and 32
        network.eval()
        expected = network(images)
        for _ in range(2):
            network.cache_features(1, on_disk=True)
            torch.testing.assert_close(network(images), expected)
    assert len([*folder_of(backbones[0]).glob("*.maps")]) == 4
