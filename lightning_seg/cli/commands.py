"""The commands that train, evaluate and look at an experiment; each takes its arguments as the shell gives them."""

import argparse
from pathlib import Path

from lightning_seg.errors import UserError
from lightning_seg.experiment.failures import friendly_errors
from lightning_seg.experiment.loading import load_run, read_data, run_argument
from lightning_seg.experiment.training import resume as resume_run
from lightning_seg.experiment.training import train
from lightning_seg.runs.directory import PICTURES


def exp(args: list[str]) -> None:
    """Train, then test the best checkpoint; with ``--launcher slurm`` as a job."""
    launcher, args = _launcher(args)
    if launcher == "slurm":
        from lightning_seg.studies.slurm import submit

        submit(args)
    else:
        train(args, then_test=True)


def fit(args: list[str]) -> None:
    """Train only."""
    train(args, then_test=False)


def folds(args: list[str]) -> None:
    """Cross-validate, ``NAME K [--key=value ...]``: one run for each fold, then the answer over all."""
    from lightning_seg.studies.cross_validation import summarise

    config, (count, *rest) = args[:2], args[2:] or [""]
    if not count.isdigit() or int(count) < 2:
        raise UserError(f"how many folds? Type 'lightning-seg cross-validate NAME 5'; got {count!r}.")
    runs = []
    for fold in range(int(count)):
        print(f"fold {fold} of {count}")
        # No checkpoint is chosen by the fold that scores it: the last one counts.
        chosen = [
            f"--data.init_args.folds={count}",
            f"--data.init_args.fold={fold}",
            "--checkpoint.monitor=null",
        ]
        runs.append(train([*config, *chosen, *rest], then_test=True))
    summary = summarise(runs)
    file = runs[-1].parent / f"{runs[0].name}-{count}-folds.txt"
    file.write_text("\n".join([summary, *map(str, runs)]) + "\n")
    print(f"\n{summary}\n{file}")


def resume(args: list[str]) -> None:
    """Continue a run from its newest whole checkpoint, in its own directory and W&B run, then test."""
    resume_run(*run_argument("resume", args))


def test(args: list[str]) -> None:
    """Test the best checkpoint of a run; the result replaces test.json in its directory."""
    run = load_run(*run_argument("test", args))
    trainer = run.make_trainer()
    with friendly_errors(trainer, run.data, lambda: run.directory):
        trainer.test(**run.trainer_arguments, verbose=False)


def validate(args: list[str]) -> None:
    """Score the best checkpoint of a run on the validation split."""
    run = load_run(*run_argument("validate", args))
    trainer = run.make_trainer()
    with friendly_errors(trainer, run.data, lambda: run.directory):
        trainer.validate(**run.trainer_arguments, verbose=False)


def check(args: list[str]) -> None:
    """Look at every file of a data set, ``NAME [--output FILE] [--key=value ...]``, and report what is wrong."""
    from lightning_seg.data.checks.check import check as check_data
    from lightning_seg.data.checks.examples import draw_examples

    output, args = _output(args)
    data = read_data(args)
    report = check_data(data, progress=True)
    print(report.text(files=None))
    if output is not None and data.train_split in report.pixels:
        draw_examples(data, report, output)
        print(f"pictures of every class: {output}")
    if not report.ok:
        raise SystemExit(1)


def preview(args: list[str]) -> None:
    """Draw augmented training samples, ``NAME [--output FILE] [--key=value ...]``."""
    from lightning_seg.data.checks.preview import preview as preview_data

    output, args = _output(args)
    output = output or Path("preview.png")
    preview_data(read_data(args), output)
    print(f"augmented training samples: {output}")


def _output(args: list[str]) -> tuple[Path | None, list[str]]:
    """Split off ``--output FILE``."""
    if "--output" not in args[:-1]:
        return None, args
    at = args.index("--output")
    return Path(args[at + 1]), args[:at] + args[at + 2 :]


def describe(args: list[str]) -> None:
    """Measure networks, ``NAME|RUN ... [--all] [--size HxW] [--html FILE] [--key=value ...]``."""
    from lightning_seg.cli.profile import main as describe_networks

    describe_networks(args)


def features(args: list[str]) -> None:
    """Draw the feature maps of an image, ``RUN IMAGE [--output FILE] [--key=value ...]``."""
    from lightning_seg.callbacks.feature_maps import draw_file

    run, args = run_argument("features", args)
    if not args or args[0].startswith("-"):
        raise UserError("which image? Type 'lightning-seg features RUN IMAGE [--output FILE]'.")
    image, args = Path(args[0]), args[1:]
    output = run / PICTURES / f"features_{image.stem}.png"
    if args[:1] == ["--output"] and len(args) > 1:
        output, args = Path(args[1]), args[2:]
    output.parent.mkdir(parents=True, exist_ok=True)
    draw_file(load_run(run, args).task.network, image, output)
    print(f"feature maps: {output}")


def _launcher(args: list[str]) -> tuple[str, list[str]]:
    """Split off ``--launcher here`` or ``--launcher slurm``."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--launcher", default="here")
    given, rest = options.parse_known_args(args)
    if given.launcher not in ("here", "slurm"):
        raise UserError(f"--launcher must be here or slurm, got {given.launcher!r}.")
    return given.launcher, rest
