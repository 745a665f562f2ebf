"""Tables are as wide as their content and the same everywhere."""

from lightning_seg.plotting.tables import text_table


def test_columns_are_aligned_and_nothing_is_cut_or_interpreted(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    name = "runs/[red]" + "x" * 200
    lines = text_table(
        ["run", "mIoU %", "tags"], [[name, "61.2", ":smile: b"], ["é", "7.1", ""]], left=(0, 2)
    )
    head, first, second = lines.split("\n")
    assert first == f"{name}    61.2  :smile: b"
    assert second == "é" + " " * (len(name) - 1) + "     7.1"
    assert head == "run" + " " * (len(name) - 3) + "  mIoU %  tags"


def test_a_table_without_titles_has_no_line_for_them():
    assert text_table(["", ""], [["a", "1"]]) == "a  1"
