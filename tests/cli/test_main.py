"""What a user types wrongly gets one short answer, and what needs no torch does not import it."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_seg.cli import main as cli
from tests.runs.made_runs import make_run

PROGRAM = [sys.executable, "-m", "lightning_seg"]
COMMANDS = [*cli.COMMANDS, "runs list", "runs show", "runs tag", "runs delete", "runs disk", "runs prune"]
COMMANDS += [f"bench {what}" for what in ("data", "train", "eval", "start", "frozen", "guard")]


def test_help_lists_the_commands(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("exp NAME", "resume RUN", "predict RUN IMAGES"))
    assert "exit codes" in out and max(map(len, out.splitlines())) <= 110


def test_unknown_command(capsys):
    assert cli.main(["exps"]) == 2
    assert "unknown command 'exps'. Did you mean exp?" in capsys.readouterr().err


@pytest.mark.parametrize(("old", "new"), cli.RENAMED.items())
def test_an_old_command_names_the_new_one(old, new, capsys):
    assert cli.main([old, "quickstart"]) == 2
    assert f"the command {old!r} is called {new!r}" in capsys.readouterr().err
    assert new in cli.COMMANDS and old not in cli.COMMANDS


def test_unknown_experiment_lists_those_there_are(capsys):
    assert cli.main(["exp", "deeplab_vok"]) == 2
    err = capsys.readouterr().err
    assert "Did you mean deeplab_voc?" in err and "quickstart" in err and "unet_camvid" in err


@pytest.mark.parametrize("command", ["exp", "bench data", "profile"])
def test_without_a_name_the_projects_experiments_are_listed(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(command.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: which experiment? With the project come: ") and "unet_camvid" in err
    monkeypatch.setattr("lightning_seg.experiment.files.SHIPPED", None)
    assert cli.main(command.split()) == 2
    assert "which experiment? There is no folder experiments/ with" in capsys.readouterr().err


def test_help_and_mistakes_import_no_torch():
    """Also those of every command, but the help of ``fit``, which lists the settings of all classes."""
    code = """if True:
        import contextlib, io, sys
        from lightning_seg.cli.main import COMMANDS, main
        wrong = [["--help"], ["nonsense"], ["exp", "nothing_like_it"], ["test", "no/run"], ["predict"]]
        for words in [*wrong, *([name, "--help"] for name in COMMANDS if name != "fit")]:
            with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
                main(words)
            assert "torch" not in sys.modules, words
    """
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    words = command.split()
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and out.startswith(f"usage: lightning-seg {command} ")
    description = out.split("\n\n")[1]
    assert len(description) > 20 and f"example: lightning-seg {command}" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_one_error(command, capsys):
    assert cli.main([*command.split(), "-z"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and len(err.splitlines()) < 4
    assert importlib.import_module(f"lightning_seg.cli.{command.split()[0].replace('-', '_')}")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_in_the_help_and_has_its_module(command):
    assert f"\n  {command} " in cli.usage()
    assert callable(importlib.import_module(f"lightning_seg.cli.{command.replace('-', '_')}").main)


@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_reader_that_goes_away_ends_a_command_quietly(buffered, monkeypatch):
    """As ``lightning-seg runs | head`` does, with nothing on standard error."""
    monkeypatch.setenv("PYTHONUNBUFFERED", buffered)
    with subprocess.Popen([*PROGRAM, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # before the first line
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_pipe_that_breaks_elsewhere_is_an_error(monkeypatch, capfd):
    def broken(arguments):
        raise BrokenPipeError

    monkeypatch.setattr("lightning_seg.cli.compare.main", broken)
    with pytest.raises(BrokenPipeError):
        cli.main(["compare"])


def test_an_interrupted_command_says_so(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_seg.cli.compare.main", interrupted)
    assert cli.main(["compare"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("check-data quickstart", "--output"),
        ("compare", "--html"),
        ("dashboard", "--output"),
        ("export quickstart", "--output"),
        ("features runs image.png", "--output"),
        ("find-lr quickstart", "--output"),
        ("preview-data quickstart", "--output"),
        ("profile quickstart", "--html"),
        ("profile quickstart", "--png"),
    ],
)
@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("file/x.png", "there is no folder {0}/file"),
        ("nowhere/x.png", "there is no folder {0}/nowhere"),
        ("folder", "{0}/folder is a folder"),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_a_place_that_cannot_be_written_is_named_before_the_work(
    command, option, place, says, joined, tmp_path, capsys
):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    place = str(tmp_path / place)
    words = [f"{option}={place}"] if joined else [option, place]
    assert cli.main([*command.split(), *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"error: argument {option}: ")
    assert says.format(tmp_path) in captured.err and len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "default"), [("find-lr quickstart", "lr.png"), ("preview-data quickstart", "preview.png")]
)
def test_the_default_place_is_checked_before_the_work_too(command, default, tmp_path, monkeypatch, capsys):
    file = Path("experiments/quickstart.yaml").absolute()
    monkeypatch.chdir(tmp_path)
    Path(default).mkdir()
    assert cli.main([command.split()[0], str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"error: argument --output: {default} is a folder")


def test_a_file_that_turns_out_not_to_be_writable_is_one_error(run, capsys, monkeypatch):
    (run / "tags.json").mkdir()
    assert cli.main(["runs", "tag", str(run), "good"]) == 2
    assert capsys.readouterr().err == f"error: {run}/tags.json: Is a directory.\n"
    monkeypatch.setenv("LIGHTNING_SEG_TRACEBACK", "1")
    with pytest.raises(IsADirectoryError):
        cli.main(["runs", "tag", str(run), "good"])


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs Linux")
def test_a_place_where_nobody_may_write_is_one_error(run, capsys):
    assert cli.main(["compare", str(run), "--html", "/proc/self/x.html"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "/proc/self/x.html" in err and len(err.splitlines()) == 1
