"""The rules of inference against transformers' post-processing."""

import numpy as np
import pytest
import torch

from lightning_seg.errors import UserError
from lightning_seg.inference.segments import SegmentRules
from lightning_seg.networks.mask_network import Queries, class_logits

CLASSES, SIZE = 4, 384  # the size at which transformers computes


def queries(seed):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn(1, 8, 6, 6, generator=generator) * 4
    large = torch.nn.functional.interpolate(masks, (SIZE, SIZE), mode="bilinear", align_corners=False)
    return masks, Queries(large, torch.randn(1, 8, CLASSES + 1, generator=generator) * 3)


def outputs(masks, classes):
    return type("Outputs", (), {"masks_queries_logits": masks, "class_queries_logits": classes})()


@pytest.fixture(scope="module")
def processor():
    transformers = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    return transformers.Mask2FormerImageProcessor()


def test_segments_are_those_of_transformers(processor):
    found = 0
    for seed in range(12):
        small, full = queries(seed)
        view = SegmentRules(0.4, 0.6, 0.5).segments(full, things=(1, 3))
        expected = processor.post_process_panoptic_segmentation(
            outputs(small, full.classes), 0.4, 0.5, 0.6, label_ids_to_fuse={0, 2}
        )[0]
        numbers = expected["segmentation"].numpy().astype(int)
        ours, theirs = (
            {(label, (parts == n).tobytes()) for n, label in segments if (parts == n).any()}
            for parts, segments in (
                (view.parts, [(n, int(view.labels[view.parts == n][0])) for n in np.unique(view.parts) if n]),
                (numbers, [(s["id"], s["label_id"]) for s in expected["segments_info"]]),
            )
        )
        assert ours == theirs
        found += len(ours)
    assert found > 20


def test_semantic_labels_are_those_of_transformers(processor):
    for seed in range(4):
        small, full = queries(seed)
        expected = processor.post_process_semantic_segmentation(outputs(small, full.classes))[0]
        labels = class_logits(full)[0].argmax(0)
        assert (labels == expected).float().mean() > 0.9999


def test_objects_are_of_things_and_scored_by_class_and_mask():
    _, full = queries(0)
    objects = SegmentRules(objects=10).instances(full, things=(1, 3))
    assert len(objects["labels"]) and set(objects["labels"].tolist()) <= {1, 3}
    chances = full.classes[0].softmax(-1)
    for i, mask in enumerate(objects["masks"]):
        query = next(q for q in range(8) if ((full.masks[0, q] > 0).numpy() == mask).all())
        sure = full.masks[0, query].sigmoid()[torch.from_numpy(mask)].mean()
        assert objects["scores"][i] == pytest.approx(
            float(chances[query, objects["labels"][i]] * sure), abs=1e-5
        )


def test_nothing_sure_enough_gives_nothing_and_thresholds_are_probabilities():
    _, full = queries(0)
    view = SegmentRules(1.0).segments(full, (1,))
    assert not view.parts.any() and (view.labels == 255).all()
    assert SegmentRules().instances(full, ())["masks"].shape == (0, SIZE, SIZE)
    with pytest.raises(UserError, match="expected thresholds in 0..1"):
        SegmentRules(score_threshold=1.5)
