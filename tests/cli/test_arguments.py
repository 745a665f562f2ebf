"""Arguments of a command and settings of an experiment are told apart wherever they stand."""

import argparse

import pytest

from lightning_seg.cli.arguments import Arguments, at_least, config_arguments, folder, picture_file, size
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import existing_run


@pytest.fixture
def parser():
    parser = Arguments("lightning-seg do", "Does it.", "lightning-seg do it", settings=True)
    parser.add_argument("things", nargs="*")
    parser.add_argument("--output")
    parser.add_argument("--fast", action="store_true")
    return parser


@pytest.mark.parametrize(
    "arguments",
    [
        ["a", "b", "--output", "o", "--x.y=1", "--x.z", "2", "--fast"],
        ["--x.y=1", "a", "--x.z", "2", "b", "--output=o", "--fast"],
        ["--fast", "--x.y=1", "--x.z", "2", "--output", "o", "a", "b"],
    ],
)
def test_options_and_settings_in_any_order(parser, arguments):
    options, settings = parser.parse_with_settings(arguments)
    assert options == argparse.Namespace(things=["a", "b"], output="o", fast=True)
    assert settings == ["--x.y=1", "--x.z", "2"]


def test_a_setting_may_hold_spaces_and_begin_with_minus(parser):
    words = ["--color={brightness: 0.4, hue: 0.1}", "--shift=-1", "--tags+=[a]"]
    assert parser.parse_with_settings(["a", *words]) == (
        argparse.Namespace(things=["a"], output=None, fast=False),
        words,
    )


def test_a_misspelt_option_is_no_setting(parser):
    with pytest.raises(UserError, match=r"unknown option --ouput. Did you mean --output\?"):
        parser.parse_with_settings(["a", "--ouput", "x"])


def test_half_an_option_is_no_option(parser):
    with pytest.raises(UserError, match="--outp"):
        parser.parse_args(["--outp", "x"])


def test_an_experiment_is_a_name_a_path_or_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.touch()
    parser = Arguments("lightning-seg do", "Does it.", settings=True)
    parser.add_experiment()
    for words, expected in (
        (["quickstart"], ["-c", "experiments/quickstart.yaml"]),
        ([str(file)], ["-c", str(file)]),
        (["--x=1", "-c", "a.yaml", "--config=b.yaml"], ["-c", "a.yaml", "-c", "b.yaml", "--x=1"]),
    ):
        assert parser.parse_with_settings(words)[1] == expected
    with pytest.raises(UserError, match="which experiment.*quickstart"):
        parser.parse_with_settings(["--x=1"])


def test_types_of_options_refuse_what_they_cannot_use(tmp_path):
    assert (at_least(2)("2"), size("3x4")) == (2, (3, 4))
    assert picture_file(str(tmp_path / "a.png")) == tmp_path / "a.png"
    for read, text, says in (
        (at_least(2), "1", "at least 2, got 1"),
        (at_least(2), "two", "whole number, got 'two'"),
        (folder, "", "is empty; name a folder"),
        (picture_file, "", "is empty; name a file"),
        (size, "3", "must be HEIGHTxWIDTH"),
        (size, "0x4", "must be HEIGHTxWIDTH"),
        (picture_file, str(tmp_path / "a.txt"), "must end in .png"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=says):
            read(text)
    with pytest.raises(UserError, match="the name of a run is empty"):
        existing_run("")
    assert config_arguments(None, ["a.yaml"]) == ["-c", "a.yaml"]
