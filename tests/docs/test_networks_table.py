"""The table in docs/networks.md has all networks, and a row of it is tried again."""

from pathlib import Path

import torchvision

from docs.scripts import networks_table


def test_a_network_of_a_paper_trains_and_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(networks_table, "COLUMNS", ("train", "resume"))
    tried = networks_table.Attempt(networks_table.networks()["papers.BiSeNet"], tmp_path).do()
    assert networks_table.line("papers.BiSeNet", tried) == "| `papers.BiSeNet` | cp | yes | yes |"


def test_the_table_has_every_network_of_the_libraries():
    page = (Path(__file__).parents[2] / "docs/networks.md").read_text()
    lines = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    rows = {name.strip(" `"): [cell.strip() for cell in cells] for name, *cells in lines}
    assert list(rows) == list(networks_table.networks())
    assert all(len(cells) == 1 + len(networks_table.COLUMNS) and all(cells) for cells in rows.values())
    models = torchvision.models.list_models(module=torchvision.models.segmentation)
    tried = {name.split(".")[1].split("_")[0] for name in rows if name.startswith("torchvision.")}
    assert tried == {name.split("_")[0] for name in models}
