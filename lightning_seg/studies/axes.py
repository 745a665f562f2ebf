"""An ablation over several experiments or shares of the training images: its cells, and what they say together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import kendalltau, rankdata

from lightning_seg.analysis.blocks import Block
from lightning_seg.analysis.tables import Comparison
from lightning_seg.errors import UserError
from lightning_seg.plotting.charts import Panel, draw_lines
from lightning_seg.studies.plan import Ablation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def cells(ablation: Ablation) -> list[Ablation]:
    """Return one ablation for each experiment and share of the training images, tuned and answered by itself."""
    experiments = ablation.experiments or (ablation.experiment,)
    shares: tuple[float | None, ...] = ablation.train_shares or (None,)
    if len(experiments) == 1 and shares == (None,):
        return [ablation]
    found = []
    for experiment in experiments:
        for share in shares:
            own = () if share is None else (f"--data.init_args.train_share={share}",)
            shown = [] if share is None else [f"share{share:g}"]
            cell = "-".join([experiment.stem] * (len(experiments) > 1) + shown)
            found.append(
                replace(
                    ablation,
                    name=f"{ablation.name}/{cell}",
                    experiment=experiment,
                    variants={name: (*overrides, *own) for name, overrides in ablation.variants.items()},
                    experiments=(),
                    train_shares=(),
                    share=share,
                )
            )
    names = [one.name for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"two experiments or shares would both be {twice[0]}, in one folder: give files other names, and shares"
            " that differ in their first six digits"
        )
    return found


def together(parts: Sequence[tuple[Ablation, Comparison]]) -> list[Block]:
    """Say how the variants did over all cells: scores, ranks and their stability, scores against labels.

    Args:
        parts: Each cell and what was found in it.
    """
    tables = [{row["experiment"]: row for row in found.sections[0].rows()} for _, found in parts]
    names = [name for name in parts[0][0].variants if all(name in table for table in tables)]
    if not names:
        return []
    title = parts[0][1].sections[0].measure.title
    cell_names = [part.name.rpartition("/")[2] for part, _ in parts]
    missing = [name for name in parts[0][0].variants if name not in names]
    left_out = [f"Not in all cells, so left out here: {', '.join(missing)}."] if missing else []
    scores = np.array([[table[name]["score"] for name in names] for table in tables])  # (cells, variants)
    best = parts[0][1].sections[0].measure.best
    ranks = rankdata(-best * scores, axis=1)
    low, high = scores.min(1, keepdims=True), scores.max(1, keepdims=True)
    normalized = np.where(high > low, (scores - low) / np.where(high > low, high - low, 1), 0.5)
    order = np.argsort(ranks.mean(0), kind="stable")
    several = len(names) > 1  # one alone has no rank
    rows = [
        [
            names[i],
            *(_score(table[names[i]]) for table in tables),
            f"{normalized[:, i].mean():.2f}",
            f"{ranks[:, i].mean():.2f}",
            f"{ranks[:, i].min():g} to {ranks[:, i].max():g}",
        ][: None if several else -3]
        for i in order
    ]
    blocks = [
        Block(
            "All experiments together",
            [
                *left_out,
                *_stability(ranks, names),
                *["Normalized: 0 is the worst and 1 the best variant of a cell; mean over cells."] * several,
            ],
            [
                "variant",
                *(f"{cell} {title}" for cell in cell_names),
                *["normalized", "mean rank", "ranks"] * several,
            ],
            rows,
        )
    ]
    if any(part.share is not None for part, _ in parts):
        figure = _against_labels(
            [(part, table) for (part, _), table in zip(parts, tables, strict=True)], names, title
        )
        blocks.append(Block("Score against labels", [_BANDS], figure=figure, name="labels"))
    return blocks


_BANDS = "Bands are intervals of 95 % over test images and, where there are several, seeds."


def write_together(parts: Sequence[tuple[Ablation, Comparison]], base: Path, question: str) -> list[Block]:
    """Write what all cells say together as Markdown, with links to the answer of each.

    Args:
        parts: Each cell and what was found in it.
        base: Path of the file without its ending.
        question: What the ablation asks.
    """
    blocks = together(parts)
    links = [f"- [{part.name}]({part.name.rpartition('/')[2]}/{base.name}.md)" for part, _ in parts]
    texts = [
        *[f"{question}\n"] * bool(question),
        *(block.markdown(base) for block in blocks),
        "\n".join(links) + "\n",
    ]
    base.with_suffix(".md").write_text("\n".join(texts), encoding="utf-8")
    return blocks


def _score(row: Mapping[str, Any]) -> str:
    spread = f" ± {row['std']:.1f}" if np.isfinite(row["std"]) else ""
    return f"{row['score']:.1f}{spread}"


def _stability(ranks: np.ndarray, names: Sequence[str]) -> list[str]:
    """Say how alike the cells rank the variants, and whether the best stays so without any one of them."""
    count, variants = ranks.shape
    if count < 2 or variants < 2:
        return []
    pairs = [kendalltau(ranks[i], ranks[j]).statistic for i in range(count) for j in range(i)]
    agreement = float(np.nanmean(pairs)) if np.isfinite(pairs).any() else float("nan")
    first = int(ranks.mean(0).argmin())
    without = [int(np.delete(ranks, i, 0).mean(0).argmin()) for i in range(count)]
    same = sum(i == first for i in without)
    return [
        f"{names[first]} has the best mean rank; it keeps it in {same} of {count} cases in which one cell is left out.",
        f"Cells rank alike with Kendall's tau {agreement:.2f} on average (1 is the same order, 0 none in common).",
    ]


def _against_labels(
    parts: Sequence[tuple[Ablation, Mapping[str, Mapping[str, Any]]]], names: Sequence[str], title: str
) -> "Figure":
    panels = []
    for experiment in dict.fromkeys(part.experiment for part, _ in parts):
        own = sorted(
            ((part.share or 1.0, table) for part, table in parts if part.experiment == experiment),
            key=lambda p: p[0],
        )
        x = np.array([share for share, _ in own])
        panel = Panel(f"{experiment.stem}: {title}", "share of the training images", log_x=True)
        for name in names:
            values = {
                key: np.array([table[name][key] for _, table in own]) for key in ("score", "low", "high")
            }
            panel.lines[name] = x, values["score"]
            panel.bands[name] = values["low"], values["high"]
        panels.append(panel)
    return draw_lines(panels)
