"""The tables in docs/losses_and_metrics.md are those that docs/scripts/parts_table.py makes."""

from pathlib import Path

import torch
from torchmetrics import classification, segmentation

from docs.scripts import parts_table

LINES = (Path(__file__).parents[2] / "docs/losses_and_metrics.md").read_text().splitlines()


def cells(name):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in LINES if f"| `{name}` |" in line]
    return [row[2:] for row in rows]


def test_losses_are_given_what_the_table_says():
    rows = [(cls, options) for library, cls, options in parts_table.losses() if library == "torch"]
    made = {}
    for cls, options in rows:
        form, void = parts_table.judge_loss(cls, options)
        if form != "–":
            made.setdefault(cls.__name__, []).append([parts_table._stated(options), form, void])
    assert {"CrossEntropyLoss", "BCEWithLogitsLoss"} <= made.keys()
    assert {name: cells(name) for name in made} == made
    assert "log-probabilities" in cells(torch.nn.NLLLoss.__name__)[0][-1]


def test_metrics_are_given_what_the_table_says():
    rows = {cls: options for _, cls, options in parts_table.metrics()}
    assert len(rows) == sum(line.startswith(("| classification", "| segmentation")) for line in LINES)
    for cls in (classification.MulticlassAUROC, classification.MulticlassROC, segmentation.MeanIoU):
        assert cells(cls.__name__) == [
            [parts_table._stated(rows[cls]), *parts_table.judge_metric(cls, rows[cls])]
        ]
