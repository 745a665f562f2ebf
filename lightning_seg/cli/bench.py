"""``lightning-seg bench``: ratios to bare loops and other libraries, measured on this machine."""

from typing import TYPE_CHECKING, cast

from lightning_seg.cli.arguments import Arguments, at_least, config_arguments, size
from lightning_seg.errors import ExitCode, UserError

if TYPE_CHECKING:
    from lightning_seg.experiment.experiment import TaskAndData
    from lightning_seg.tasks.semantic import SemanticSegmentation


def main(arguments: list[str]) -> int | None:
    """Run the command: the first argument says what is timed."""
    if arguments and arguments[0] in _BENCHES:
        return _BENCHES[arguments[0]](arguments[1:])
    parser = Arguments(
        "lightning-seg bench",
        "Time something beside a bare loop or other libraries, in turns, on this machine; the result is a ratio.",
        "lightning-seg bench train quickstart --steps 3",
    )
    kinds = parser.add_subparsers(metavar="WHAT", title="what is timed", required=True)
    for name, function in _BENCHES.items():
        kinds.add_parser(name, help=(function.__doc__ or "").rstrip("."), description="")
    parser.parse_args(arguments)
    return None


def _data(arguments: list[str]) -> None:
    """How fast training samples are made, beside torchvision and albumentations."""
    parser = _parser("data", _data.__doc__, "unet_camvid", rounds=7)
    options, settings = parser.parse_with_settings(arguments)

    from lightning_seg.bench import samples
    from lightning_seg.bench.timing import table, take_turns
    from lightning_seg.experiment.loading import read_data

    data = read_data(settings)

    ways, images = samples.sample_ways(data)
    times = take_turns(ways, options.rounds)
    height, width = data.crop_size
    print(
        f"{type(data).__name__}, {images} images a turn; scale {list(data.geometry[0].scale_range)},"
        f" crop {height}x{width}, flip, colors and hue, normalized to float; processor time of one thread"
    )
    print(table(times, samples.TORCHVISION, samples.GOALS, unit=images))
    if samples.ALBUMENTATIONS not in times:
        print("To compare with albumentations: `uv pip install albumentations`.")


def _train(arguments: list[str]) -> None:
    """A training step beside a bare loop and, with --peers, other frameworks."""
    parser = _parser("train", _train.__doc__, "quickstart --steps 3")
    parser.add_argument(
        "--steps", metavar="N", type=at_least(1), default=6, help="training steps in a turn (6)"
    )
    parser.add_argument("--peers", action="store_true", help="time other frameworks, too (the extra 'peers')")
    _add_clock(parser)
    options, settings = parser.parse_with_settings(arguments)
    experiment = _experiment(settings, segments=True)
    data = experiment.datamodule

    from lightning_seg.bench import peers, train
    from lightning_seg.bench.timing import table, take_turns

    bench = train.TrainBench(experiment, options.steps, options.processor_time)
    ways = bench.ways()
    if options.peers:
        ways |= peers.peers(bench)
    train.silence()  # the imports of others have set levels of their own
    times = take_turns(ways, options.rounds)
    height, width = data.crop_size
    print(
        f"one training step: {type(experiment.model.network).__name__}, {data.batch_size} x {height}x{width}, "
        f"{data.num_classes} classes, {bench.arithmetic}, {bench.device_name}"
    )
    print(table(times, train.BARE, train.GOALS, unit=data.batch_size))
    for name, kept in bench.memory().items():
        print(f"{name}: {kept}")


def _eval(arguments: list[str]) -> None:
    """Scores beside torchmetrics, and a validation step beside the forward pass alone."""
    parser = _parser("eval", _eval.__doc__, "quickstart --size 256x256")
    parser.add_argument("--size", type=size, default=(512, 512), help="HEIGHTxWIDTH that is scored (512x512)")
    parser.add_argument(
        "--classes", metavar="N", type=at_least(2), default=21, help="classes that are scored (21)"
    )
    _add_clock(parser)
    options, settings = parser.parse_with_settings(arguments)
    experiment = _experiment(settings)

    from lightning_seg.bench import evaluate, train
    from lightning_seg.bench.timing import table, take_turns

    bench = train.TrainBench(experiment, 1, options.processor_time)
    images = len(bench.batch["image"])
    height, width = options.size
    print(f"{images} images of {height}x{width}, {options.classes} classes, {bench.device_name}")
    scores = evaluate.scoring(images, options.size, options.classes, bench)
    times = take_turns(scores, options.rounds)
    print(table(times, evaluate.USUAL_LOGITS, evaluate.GOALS, unit=images))
    print(f"\n{type(experiment.model.network).__name__}, {bench.arithmetic}")
    times = take_turns(evaluate.validation(bench, options.size), options.rounds)
    print(table(times, evaluate.FORWARD, evaluate.GOALS, unit=images))


def _start(arguments: list[str]) -> None:
    """How long commands take to answer, beside the imports that nobody can avoid."""
    parser = _parser("start", _start.__doc__, "--rounds 5", rounds=3, experiment=False)
    options = parser.parse_args(arguments)

    from lightning_seg.bench import start

    print(start.table(start.measure(options.rounds)))


def _frozen(arguments: list[str]) -> None:
    """Time and memory of a training step with more and more of the backbone frozen."""
    parser = _parser("frozen", _frozen.__doc__, "deeplab_lite0_camvid")
    parser.add_argument(
        "--steps", metavar="N", type=at_least(1), default=3, help="training steps in a turn (3)"
    )
    options, settings = parser.parse_with_settings(arguments)
    experiment = _experiment(settings)
    data, trainer = experiment.datamodule, experiment.config.trainer

    from lightning_seg.bench import frozen
    from lightning_seg.bench.network_profile import Conditions
    from lightning_seg.bench.timing import take_turns
    from lightning_seg.experiment.trainer import device_of

    conditions = Conditions(
        size=data.crop_size,
        batch_size=data.batch_size,
        device=device_of(trainer.accelerator),
        bf16=str(trainer.precision).startswith("bf16"),
    )
    task = cast("SemanticSegmentation", experiment.model)
    tasks = frozen.under_policies(task, conditions.device)
    memory = {name: frozen.bytes_of_training(task, conditions) for name, task in tasks.items()}
    ways = {name: frozen.steps(task, conditions, options.steps) for name, task in tasks.items()}
    times = take_turns(ways, options.rounds)
    network = experiment.model.network
    print(
        f"one training step: {type(network).__name__}, {getattr(network.backbone, 'name', '')}, {conditions}"
    )
    print(frozen.table(times, memory, options.steps))


def _guard(arguments: list[str]) -> int:
    """The benchmarks in short, for continuous integration; exit code 1 if a ratio is below its floor."""
    parser = _parser("guard", _guard.__doc__, "", rounds=3, experiment=False)
    options = parser.parse_args(arguments)
    sized = ["--data.init_args.batch_size=8", "--trainer.accelerator=cpu"]
    experiment = _experiment([*config_arguments("quickstart"), *sized])

    from lightning_seg.bench.guard import run

    below = run(experiment, options.rounds)
    if not below:
        return ExitCode.DONE
    print(
        f"slower than before: {'; '.join(below)}. Find the change that did it (git bisect run), or, if it is meant"
        " to be so, say in its message why and lower the floor in lightning_seg/bench/guard.py."
    )
    return ExitCode.FINDINGS


_BENCHES = {
    "data": _data,
    "train": _train,
    "eval": _eval,
    "start": _start,
    "frozen": _frozen,
    "guard": _guard,
}


def _parser(
    name: str, description: str | None, example: str, rounds: int = 5, experiment: bool = True
) -> Arguments:
    prog = f"lightning-seg bench {name}"
    parser = Arguments(prog, description or "", f"{prog} {example}".rstrip(), settings=experiment)
    if experiment:
        parser.add_experiment()
    parser.add_argument(
        "--rounds",
        metavar="N",
        type=at_least(1),
        default=rounds,
        help=f"how often each way takes its turn ({rounds})",
    )
    return parser


def _add_clock(parser: Arguments) -> None:
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="count one thread's processor time: what other programs take does not disturb it; for CPUs only",
    )


def _experiment(settings: list[str], segments: bool = False) -> "TaskAndData":
    from lightning_seg.experiment.experiment import TaskAndData
    from lightning_seg.tasks.semantic import SemanticSegmentation

    experiment = TaskAndData(settings)
    if not isinstance(experiment.model, SemanticSegmentation) or (experiment.model.segments and not segments):
        raise UserError(
            "this bench times networks that give each pixel a class, not the task "
            f"{type(experiment.model).__name__}; take an experiment such as quickstart"
        )
    return experiment
