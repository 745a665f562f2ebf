"""What a grouping by a setting says of runs that also differ in others."""

import csv
import io
import re
import shlex

from lightning_seg.analysis import tables
from lightning_seg.analysis.compare import compare
from lightning_seg.analysis.report.report import Heading, page
from tests.analysis.test_compare import ad_hoc, network
from tests.runs.made_runs import make_run


def test_every_format_says_that_runs_also_differ_in_other_settings(tmp_path):
    ad_hoc(tmp_path)
    comparison = compare([tmp_path], ["finetune"])
    said = "Not finetune alone: the runs compared also differ in backbone, loss, lr"
    for layout in (tables.text, tables.markdown, tables.latex):
        assert said in layout(comparison)
    assert said in page(comparison, Heading())
    caption = re.search(r"\\caption\{(.*)\}", tables.latex(comparison)).group(1)
    assert "over runs" in caption and "runs of Full also differ in backbone, loss, lr" in caption
    rows = list(csv.DictReader(io.StringIO(tables.csv(comparison))))
    also = {row["experiment"]: row["also_differ_in"] for row in rows if row["level"] == "group"}
    assert also == {"Full": "backbone, loss, lr", "Frozen": ""}


def test_the_table_of_settings_shows_all_values_of_a_group_and_a_run_its_own(tmp_path):
    ad_hoc(tmp_path)
    comparison = compare([tmp_path], ["finetune"])
    full = next(r for r in comparison.sections[0].rows() if r["experiment"] == "Full")
    assert full["settings"]["model.network.backbone"] == "resnet34 / resnet50"
    runs = [r for r in csv.DictReader(io.StringIO(tables.csv(comparison))) if r["level"] == "run"]
    assert sorted(r["setting/backbone"] for r in runs) == ["resnet34"] * 7 + ["resnet50"]


def test_the_conditions_that_are_advised_leave_groups_that_differ_in_nothing_else(tmp_path):
    ad_hoc(tmp_path)
    summary = compare([tmp_path], ["finetune"]).sections[0].summary
    advice = summary.partition("Those that agree: ")[2].partition(". ")[0]
    where = [word for word in shlex.split(advice) if word != "--where"]
    (section,) = compare([tmp_path], ["finetune"], where=where).sections
    assert {group.name: group.seeds for group in section.groups} == {"Full": 3, "Frozen": 1}
    assert "also differ" not in section.summary + section.remark


def test_groups_that_are_alike_in_the_rest_are_not_called_confounded(tmp_path):
    for lr in (1e-3, 1e-4):
        for backbone in ("resnet34", "resnet50"):
            make_run(tmp_path, "unet", 0, config=network(lr=lr, backbone=backbone))
    (section,) = compare([tmp_path], ["lr"]).sections
    assert section.summary.startswith("Runs differ in backbone, too, in every group alike.")


def test_experiments_grouped_by_name_say_what_else_differs(tmp_path):
    ad_hoc(tmp_path)
    make_run(tmp_path, "other", 0, config=network())
    (section,) = compare([tmp_path], ["experiment"]).sections
    assert "Not experiment alone: the runs compared also differ in backbone" in section.summary


def test_variants_of_an_ablation_are_all_that_they_change(tmp_path):
    for name, backbone, lr in (("a/small", "resnet18", 0.1), ("a/large", "resnet50", 0.2)):
        for seed in range(2):
            make_run(tmp_path, name, seed, config=network(lr=lr, backbone=backbone))
    (section,) = compare([tmp_path], ["experiment"]).sections
    assert "alone" not in section.summary
    make_run(tmp_path, "a/small", 2, config=network(lr=0.3, backbone="resnet18"))
    (section,) = compare([tmp_path], ["experiment"]).sections
    assert "Not experiment alone" in section.summary
