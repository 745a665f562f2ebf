"""What a user types wrongly gets one short answer, and what needs no torch does not import it."""

import pkgutil
import subprocess
import sys

import pytest

from lightning_seg.cli import main as cli


def test_help_lists_the_commands(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("exp NAME", "resume RUN", "predict RUN IMAGES"))


def test_unknown_command(capsys):
    assert cli.main(["exps"]) == 2
    assert "unknown command 'exps'. Did you mean exp?" in capsys.readouterr().err


def test_unknown_experiment_lists_those_there_are(capsys):
    assert cli.main(["exp", "deeplab_vok"]) == 2
    err = capsys.readouterr().err
    assert "Did you mean deeplab_voc?" in err and "quickstart" in err and "unet_camvid" in err


@pytest.mark.parametrize("arguments", [["--help"], ["exp", "nothing_like_it"], ["nonsense"]])
def test_light_commands_import_no_torch(arguments):
    code = (
        "import sys; from lightning_seg.cli.main import main; main(sys.argv[1:]); "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_in_the_help_and_has_its_function(command):
    assert f"\n  {command} " in cli.USAGE
    assert callable(pkgutil.resolve_name(cli.COMMANDS[command]))
