"""The table in docs/export.md is the one that docs/scripts/export_table.py makes."""

from pathlib import Path

import pytest

from docs.scripts import export_table

pytest.importorskip("onnxscript")
DOCUMENT = Path(__file__).parents[2] / "docs/export.md"


def test_the_document_has_a_line_for_every_network_of_the_script():
    lines = DOCUMENT.read_text().splitlines()
    rows = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines if line.startswith("| ")]
    names = [name.split(".")[1] for name in export_table.ARCHITECTURES]
    assert rows[1:] == [(name, backbone) for name in names for backbone in export_table.BACKBONES]
    assert export_table.REMARK in lines


def test_a_network_that_does_not_export_is_a_line_of_the_table(capsys, monkeypatch):
    def refuse(*args):
        raise RuntimeError("no such operator\nand pages more")

    monkeypatch.setattr(export_table, "export_onnx", refuse)
    line = "| FPN | test_resnet | – | – | – | does not export: no such operator |"
    assert line in export_table.table(["fpn.FPN"], ["test_resnet"]) and line in capsys.readouterr().err
