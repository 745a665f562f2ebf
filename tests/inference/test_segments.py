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


def published(queries, things, score_threshold, overlap_threshold):
    """MaskFormer's `panoptic_inference`, pixel by pixel; transformers compares masks that are weighted by scores."""
    chances = queries.classes[0].softmax(-1).numpy()
    kept = [
        q for q in range(len(chances)) if chances[q].argmax() < CLASSES and chances[q].max() > score_threshold
    ]
    masks = queries.masks[0].sigmoid().numpy()
    owner = np.argmax([chances[q].max() * masks[q] for q in kept], 0) if kept else None
    found, stuff = [], {}
    for place, q in enumerate(kept):
        label, own, inside = int(chances[q].argmax()), owner == place, masks[q] >= 0.5
        if not (own & inside).any() or own.sum() / inside.sum() < overlap_threshold:
            continue
        if label in things:
            found.append((label, own & inside))
        else:
            stuff[label] = stuff.get(label, False) | (own & inside)
    return {(label, mask.tobytes()) for label, mask in [*found, *stuff.items()]}


def test_segments_are_those_of_the_published_rules():
    fused = found = 0
    for seed in range(20):
        _, full = queries(seed)
        view = SegmentRules(0.4, 0.6).segments(full, things=(1, 3))
        ours = {
            (int(view.labels[view.parts == n][0]), (view.parts == n).tobytes())
            for n in np.unique(view.parts)
            if n
        }
        assert ours == published(full, (1, 3), 0.4, 0.6)
        found += len(ours)
        fused += len(ours) > 1
    assert found > 20 and fused


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
