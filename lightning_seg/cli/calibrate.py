"""``lightning-seg calibrate``: fit the temperature of a run, and measure how well calibrated it is."""

from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import existing_run


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg calibrate",
        "Fit a temperature to the validation split; if it helps on held-out images of it, 'predict', 'test' and"
        " 'postprocess' then divide the logits of this run by it. Report the expected calibration error (ECE) before"
        " and after on the validation and the test split, and draw reliability diagrams.",
        "lightning-seg calibrate runs/unet_camvid",
        settings=True,
    )
    parser.add_run()
    options, settings = parser.parse_with_settings(arguments)
    run = existing_run(options.run)

    import torch

    from lightning_seg.experiment.loading import load_run
    from lightning_seg.inference.calibration import calibrate, halves
    from lightning_seg.tasks.semantic import SemanticSegmentation

    loaded = load_run(run, settings)
    data, task = loaded.data, loaded.task
    if not isinstance(task, SemanticSegmentation):
        raise UserError(f"{run} has no probability for each pixel: calibrate runs of semantic segmentation.")
    data.setup("validate")
    loaders = {data.val_split: data.val_dataloader()}
    try:
        data.setup("test")
        loaders.setdefault(data.test_split, data.test_dataloader())
    except UserError as error:
        print(f"no test split, so none is reported: {str(error).splitlines()[0]}")
    task.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    found = calibrate(task, loaders, data.val_split, halves(data, data.val_split))
    files = found.save(run)
    if found.at_limit:
        print(
            "The temperature is at its limit: no single one calibrates this network. It may have learnt too little"
            " to be calibrated."
        )
    print(f"temperature {found.fitted:.3f}, fitted to {found.pixels} pixels of {found.fitted_on}")
    if held_out := found.held_out:
        print(
            "on held-out images, each half by the temperature of the other: negative log-likelihood"
            " {:.4f} before, {:.4f} after; ECE {:.4f} before, {:.4f} after".format(
                *held_out.loss, *held_out.ece
            )
        )
    if found.temperature == 1:
        reason = "does not help on held-out images" if held_out else "cannot be checked on a second image"
        print(f"This temperature {reason}: the run keeps temperature 1.")
    for split, (before, after) in found.reliability.items():
        fitted = ", on the images that the temperature is fitted to" if split == found.fitted_on else ""
        print(f"ECE {split}: {before.ece:.4f} before, {after.ece:.4f} after{fitted}")
    print(", ".join(map(str, files)))
