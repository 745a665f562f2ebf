"""``lightning-seg find-batch-size``: find the largest batch that fits into the device's memory."""

from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import UserError


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg find-batch-size",
        "Find the largest batch of training crops that fits into the device's memory, by training steps on random"
        " crops: batches of 1, 2, 4, ... No data is read and nothing is written.",
        "lightning-seg find-batch-size unet_camvid --trainer.precision=bf16-mixed",
        settings=True,
    )
    parser.add_experiment()
    _, settings = parser.parse_with_settings(arguments)

    from lightning_seg.experiment.batch_size import MOST, largest_batch
    from lightning_seg.experiment.experiment import TaskAndData
    from lightning_seg.experiment.trainer import device_of
    from lightning_seg.training.precision import choose_precision

    experiment = TaskAndData(settings)
    given, data = experiment.config.trainer, experiment.datamodule
    device = device_of(given.accelerator)
    precision = given.precision or choose_precision(experiment.model.network, device).precision
    batch, (height, width) = largest_batch(experiment.model, data, device, precision), data.crop_size
    if batch == 0:
        raise UserError(
            f"not one crop of {height}x{width} fits into the memory of {device}. Try a smaller"
            " --data.init_args.crop_size, a smaller backbone, or --model.gradient_checkpointing=true."
        )
    limit = "" if batch < MOST[device.type] else " (more was not tried)"
    print(
        f"{batch} crops of {height}x{width} fit in {precision}{limit}: --data.init_args.batch_size={batch}\n"
        "It changes what is learned: keep batch_size x devices x accumulate_grad_batches to compare with other runs."
    )
