"""Under- and overfitting: the curves of three trainings of one network, and what their runs said of them."""

import csv
from pathlib import Path

from docs.scripts.learn.common import COLORS, chart, panels, save
from docs.scripts.learn.trained import run_of
from lightning_seg.callbacks.overfitting import History, judge
from lightning_seg.runs.directory import METRICS

TITLES = {
    "learning_too_slowly": "rate 1e-4, 200 images",
    "fcn8s": "rate 2e-3, 600 images",
    "learned_by_heart": "rate 2e-3, 8 images",
}


def draw(folder: Path) -> list[str]:
    """Draw the curves; return the verdicts."""
    figure, axes = panels("AB CD EF", 6.6)
    said = []
    for row, (name, title) in enumerate(TITLES.items()):
        with (run_of(name) / METRICS).open(encoding="utf-8") as file:
            history = History.read(list(csv.DictReader(file)))
        losses, scores = axes[2 * row : 2 * row + 2]
        for one, train, val in (
            (losses, history.train_loss, history.val_loss),
            (scores, history.train_miou, history.val_miou),
        ):
            one.plot(history.step, train, "o-", color=COLORS[0], markersize=3, label="training images")
            one.plot(history.step, val, "s--", color=COLORS[1], markersize=3, label="validation images")
            one.set_ylim(bottom=0)
        scores.set_ylim(0, 1)
        chart(losses, title, "step" if row == 2 else "", "loss")
        chart(scores, "", "step" if row == 2 else "", "mIoU")
        said.append(f"{title}: {judge(history)}")
    axes[3].legend(fontsize=8.5, loc="lower right")
    save(figure, folder, "fitting")
    return said
