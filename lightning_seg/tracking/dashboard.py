"""A W&B workspace and report made for the runs at hand."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from lightning_seg.analysis.groups import varied
from lightning_seg.errors import UserError
from lightning_seg.runs.records import Record

STEP = "trainer/global_step"
SCORE = "test/miou"
SPEED = "train/images_per_second"
BEST = "val/miou.max"  # in the summary, where the best of a curve has a name of its own
CURVES = ("val/miou", "val/loss", "train/loss")
PICTURES = ("val/pictures", "test/pictures")
TABLE = "test/pictures_table"
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
        group_by: Setting whose runs make one curve with a band: the name of an experiment or a variant.
        classes: The classes in label order.
        settings: Settings that vary, as axes.
    """

    project: str = "lightning_seg"
    entity: str | None = None
    title: str = "Segmentation"
    groups: list[str] = field(default_factory=list)
    group_by: str = "name"
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
        settings=varied(records)[:_SETTINGS],
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
        groupby=[expr.Config(dashboard.group_by)],
        order=[expr.Ordering(expr.Summary(SCORE), ascending=False)],
        pinned_columns=[f"summary:{SCORE}", f"summary:{BEST}"],
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
            groupby=[f"config.{dashboard.group_by}"],
        )
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(
        project=dashboard.project,
        entity=dashboard.entity or "",
        title=dashboard.title,
        description="Bands are standard deviations over seeds. Intervals and tests: lightning-seg compare --html.",
        blocks=blocks,
        width="fluid",
    )


def _panels(dashboard: Dashboard) -> dict[str, list[Any]]:
    """Build the panels of each section, three in a row."""
    wr = _library("reports.v2")
    group = wr.Config(dashboard.group_by)
    curves = [
        wr.LinePlot(
            title=name,
            x=STEP,
            y=[name],
            log_y=name.endswith("loss"),
            groupby=group,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            max_runs_to_show=100,
        )
        for name in CURVES
    ]
    score = wr.SummaryMetric(SCORE)
    bars = [wr.BarPlot(title=SCORE, metrics=[SCORE], groupby=group, groupby_rangefunc="stddev")]
    bars += [
        wr.BarPlot(
            title=f"IoU: {name}", metrics=[f"test/iou/{name}"], groupby=group, groupby_rangefunc="stddev"
        )
        for name in dashboard.classes[:_CLASSES]
    ]
    axes = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name)) for name in dashboard.settings]
    axes += [wr.ParallelCoordinatesPlotColumn(metric=score)]
    sections = {
        "Curves": curves,
        "Classes": bars,
        "Speed and accuracy": [
            wr.ScatterPlot(title="Speed and accuracy", x=wr.SummaryMetric(SPEED), y=score, running_ymax=True),
            wr.ScatterPlot(title="Size and accuracy", x=wr.Config("environment.parameters"), y=score),
        ],
        "Settings": [wr.ParallelCoordinatesPlot(columns=axes), wr.RunComparer(diff_only=True)],
        "Pictures": [
            wr.MediaBrowser(media_keys=list(PICTURES), mode="grid", grid_x_axis="index", grid_y_axis="run"),
            wr.WeavePanelSummaryTable(table_name=TABLE),
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


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"wandb_workspaces.{name}")
    except ModuleNotFoundError:
        raise UserError(
            "dashboards need wandb-workspaces: pip install 'wandb-workspaces>=0.4,<0.5'"
        ) from None
