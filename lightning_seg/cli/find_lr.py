"""``lightning-seg find-lr``: suggest a learning rate by the range test."""

from typing import TYPE_CHECKING

from lightning_seg.cli.arguments import Arguments, at_least, picture_file

if TYPE_CHECKING:
    from lightning_seg.callbacks.range_test import RangeTest
    from lightning_seg.experiment.experiment import TaskAndData


def main(arguments: list[str]) -> None:
    """Run the command."""
    options, settings = _parser().parse_with_settings(arguments)

    import numpy as np

    from lightning_seg.callbacks.range_test import RangeTest
    from lightning_seg.experiment.experiment import TaskAndData
    from lightning_seg.plotting.charts import Panel, draw_lines

    test = RangeTest(options.steps, options.low, options.high)
    experiment = TaskAndData([*settings, "--model.lr_scheduler=null"])
    _run(experiment, test)
    best = test.suggestion()
    curve = Panel(
        f"{experiment.config.name}: loss while the learning rate rises",
        "learning rate",
        {"smoothed loss": (np.array(test.rates), np.array(test.losses))},
        log_x=True,
        mark=best,
    )
    draw_lines([curve]).savefig(options.output)
    now = experiment.config.model.optimizer.init_args.get("lr", "the optimizer's default")
    lowest = test.rates[int(np.nanargmin(test.losses))]
    if best is None:
        print(f"no suggestion: the loss did not fall between {test.low:g} and {test.rates[-1]:.2g}")
    else:
        print(f"suggestion {best:.2g}: there the loss falls most steeply; it is lowest at {lowest:.2g}")
    print(f"the experiment has {now}; the curve is in {options.output}")


def _run(experiment: "TaskAndData", test: "RangeTest") -> None:
    """Train as the experiment says, but for the learning rate; this modifies the experiment's task in place."""
    import lightning as L

    given = experiment.config.trainer
    trainer = L.Trainer(
        accelerator=given.accelerator,
        devices=1,
        precision=given.precision,
        accumulate_grad_batches=given.accumulate_grad_batches,
        gradient_clip_val=given.gradient_clip_val,
        gradient_clip_algorithm=given.gradient_clip_algorithm,
        max_steps=test.steps,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        callbacks=[test],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(experiment.model, datamodule=experiment.datamodule)


def _parser() -> Arguments:
    parser = Arguments(
        "lightning-seg find-lr",
        "Suggest a learning rate: raise it from step to step, watch the loss, and take the rate at which the loss falls"
        " most steeply (the range test, arXiv:1506.01186). No run is written.",
        "lightning-seg find-lr unet_camvid --steps 100",
        settings=True,
    )
    parser.add_experiment()
    add = parser.add_argument
    add(
        "--steps",
        metavar="N",
        type=at_least(1),
        default=100,
        help="training steps, each with a higher rate (100)",
    )
    add("--low", metavar="LR", type=float, default=1e-6, help="the lowest learning rate (1e-6)")
    add("--high", metavar="LR", type=float, default=1.0, help="the highest (1)")
    add("--output", metavar="FILE", type=picture_file, default="lr.png", help="the curve (lr.png)")
    return parser
