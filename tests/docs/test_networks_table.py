"""What docs/scripts/networks_table.py tries of foreign networks, tried on one of them."""

from docs.scripts import networks_table


def test_a_network_of_a_paper_trains_and_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(networks_table, "COLUMNS", ("train", "resume"))
    tried = networks_table.Attempt(networks_table.networks()["papers.BiSeNet"], tmp_path).do()
    assert networks_table.line("papers.BiSeNet", tried) == "| `papers.BiSeNet` | cp | yes | yes |"
