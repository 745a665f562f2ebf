"""A W&B workspace and report made for the runs at hand."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from lightning_seg.analysis.groups import varied
from lightning_seg.errors import UserError
from lightning_seg.runs.records import Record
from lightning_seg.tracking.naming import VARIANT, wandb_key

STEP = "trainer/global_step"
SCORE = "test/miou"
SPEED = "train/images_per_second"
BEST_EPOCH = "best_epoch"
BEST = "val/miou.max"  # in the summary, where the best of a curve has a name of its own
CURVES = ("val/miou", "val/loss", "train/loss")
TRAINING = ("train/lr", "train/gradient_norm", SPEED, "train/peak_memory_gb")
PINNED = ("lr", "backbone", "finetune", "params")  # columns of the list of runs
PICTURES = ("val/pictures", "test/pictures")
TABLE = "test/pictures_table"
IMAGES = "test/images"
CONFUSION = "test/confusion_table"
_CLASSES = 40  # bars in a chart
_SETTINGS = 8  # axes of the parallel coordinates


@dataclass
class Dashboard:
    """What a workspace and a report show; all that ``dashboard.yaml`` holds.

    Attributes:
        project: W&B project of the runs.
        entity: W&B user or team; the account's default if not given.
        title: Name of workspace and report.
        groups: W&B groups whose runs are shown: names of experiments and ablations.
        group_by: Key of W&B's configuration whose runs make one curve with a band; by ``variant`` these are the runs
            that differ by the seed alone.
        classes: The classes in label order.
        settings: Keys of W&B's configuration that vary, as axes.
    """

    project: str = "lightning_seg"
    entity: str | None = None
    title: str = "Segmentation"
    groups: list[str] = field(default_factory=list)
    group_by: str = VARIANT
    classes: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)


def describe(records: Sequence[Record]) -> Dashboard:
    """Choose what a dashboard of some runs shows.

    Args:
        records: The runs.

    Raises:
        UserError: They were logged to several projects.
    """
    records = [record for record in records if not record.problem]
    tracking = [record.config.get("wandb") or {} for record in records]
    places = {(t.get("entity"), t.get("project", Dashboard.project)) for t in tracking}
    if len(places) != 1:
        raise UserError(f"expected runs of one W&B project, got {len(places)}; name runs or folders of one")
    (place,) = places
    groups = [
        t.get("group") or r.config.get("name") or r.experiment for t, r in zip(tracking, records, strict=True)
    ]
    classes = [c for record in records for c in record.test.get("protocol", {}).get("classes", ())]
    groups = list(dict.fromkeys(groups))
    return Dashboard(
        entity=place[0],
        project=place[1],
        title=", ".join(groups)[:100],
        groups=groups,
        classes=list(dict.fromkeys(classes)),
        settings=list(dict.fromkeys(map(wandb_key, varied(records))))[:_SETTINGS],
    )


def load(file: Path) -> Dashboard:
    """Read a specification that this command wrote.

    Raises:
        UserError: It is none.
    """
    try:
        content = yaml.safe_load(file.read_text())
        return Dashboard(**content)
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        known = ", ".join(f.name for f in fields(Dashboard))
        raise UserError(
            f"{file} is no specification of a dashboard; expected a YAML file with {known}"
        ) from None


def save(dashboard: Dashboard, file: Path) -> None:
    """Write a specification that `load` reads."""
    file.write_text(yaml.safe_dump(asdict(dashboard), sort_keys=False, allow_unicode=True))


def workspace(dashboard: Dashboard) -> Any:
    """Build the workspace; its ``save()`` publishes it."""
    ws = _library("workspaces")
    from wandb_workspaces import expr

    sections = [
        ws.Section(name=name, panels=panels, is_open=True) for name, panels in _panels(dashboard).items()
    ]
    runs = ws.RunsetSettings(
        filters=[expr.Metric("Group").isin(dashboard.groups)],
        groupby=[expr.Config(wandb_key(dashboard.group_by))],
        order=[expr.Ordering(expr.Summary(SCORE), ascending=False)],
        pinned_columns=[
            *(f"summary:{name}" for name in (SCORE, BEST, BEST_EPOCH)),
            *(f"config:{name}" for name in PINNED),
            f"summary:{SPEED}",
        ],
    )
    settings = ws.WorkspaceSettings(x_axis=STEP, max_runs=100)
    return ws.Workspace(
        entity=dashboard.entity or "",
        project=dashboard.project,
        name=dashboard.title,
        sections=sections,
        settings=settings,
        runset_settings=runs,
    )


def report(dashboard: Dashboard) -> Any:
    """Build the report; its ``save()`` publishes it."""
    wr = _library("reports.v2")
    blocks: list[Any] = [wr.TableOfContents()]
    for name, panels in _panels(dashboard).items():
        runs = wr.Runset(
            entity=dashboard.entity or "",
            project=dashboard.project,
            name=dashboard.title,
            filters=f"Metric('Group') in {dashboard.groups!r}",
            groupby=[f"config.{wandb_key(dashboard.group_by)}"],
        )
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(
        project=dashboard.project,
        entity=dashboard.entity or "",
        title=dashboard.title,
        description=f"{_bands(dashboard)} Intervals and tests: lightning-seg compare --html.",
        blocks=blocks,
        width="fluid",
    )


def _panels(dashboard: Dashboard) -> dict[str, list[Any]]:
    """Build the panels of each section, three in a row."""
    wr = _library("reports.v2")
    group = wr.Config(wandb_key(dashboard.group_by))

    def curve(name: str) -> Any:
        return wr.LinePlot(
            title=name,
            x=STEP,
            y=[name],
            log_y=name.endswith(("loss", "lr", "norm")),
            groupby=group,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            max_runs_to_show=100,
        )

    score = wr.SummaryMetric(SCORE)
    bars = [wr.BarPlot(title=SCORE, metrics=[SCORE], groupby=group, groupby_rangefunc="stddev")]
    bars += [
        wr.BarPlot(
            title=f"IoU: {name}", metrics=[f"test/iou/{name}"], groupby=group, groupby_rangefunc="stddev"
        )
        for name in dashboard.classes[:_CLASSES]
    ]
    axes = [
        wr.ParallelCoordinatesPlotColumn(metric=wr.Config(wandb_key(name))) for name in dashboard.settings
    ]
    axes += [wr.ParallelCoordinatesPlotColumn(metric=score)]
    sections = {
        "Curves": [curve(name) for name in CURVES],
        "Classes": bars,
        "Speed and accuracy": [
            wr.ScatterPlot(title="Speed and accuracy", x=wr.SummaryMetric(SPEED), y=score, running_ymax=True),
            wr.ScatterPlot(title="Size and accuracy", x=wr.Config("params"), y=score),
        ],
        "Training": [curve(name) for name in TRAINING],
        "Settings": [wr.ParallelCoordinatesPlot(columns=axes), wr.RunComparer(diff_only=True)],
        "Pictures": [
            wr.MediaBrowser(media_keys=list(PICTURES), mode="grid", grid_x_axis="index", grid_y_axis="run"),
            wr.WeavePanelSummaryTable(table_name=TABLE),
            wr.WeavePanelSummaryTable(table_name=IMAGES),
            wr.CustomChart(
                query={"summaryTable": {"tableKey": CONFUSION}},
                chart_name="wandb/confusion_matrix/v1",
                chart_fields={"Actual": "truth", "Predicted": "prediction", "nPredictions": "percent"},
            ),
        ],
    }
    for panels in sections.values():
        for i, panel in enumerate(panels):
            panel.layout = wr.Layout(x=8 * (i % 3), y=8 * (i // 3), w=8, h=8)
    return sections


def _bands(dashboard: Dashboard) -> str:
    """Say what a curve and its band are made of."""
    if wandb_key(dashboard.group_by) == VARIANT:
        return "Runs of the same settings are one curve; its band is the standard deviation over their seeds."
    return (
        f"Runs of the same {dashboard.group_by} are one curve, whatever else differs; its band is the standard"
        " deviation over them, not over seeds."
    )


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"wandb_workspaces.{name}")
    except ModuleNotFoundError:
        raise UserError(
            "dashboards need wandb-workspaces: pip install 'wandb-workspaces>=0.4,<0.5'"
        ) from None
