"""A run that averages the probabilities of others."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from lightning.pytorch import Trainer
from torch import nn

from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import Experiment
from lightning_seg.experiment.files import read_settings
from lightning_seg.experiment.loading import LoadedRun, load_run
from lightning_seg.networks.backbones.base import restore_scalings, scalings
from lightning_seg.networks.backbones.low_rank import merge
from lightning_seg.networks.backbones.tensor_file import ADDED
from lightning_seg.runs.directory import BEST_CHECKPOINT, CONFIG, JsonObject


def make_ensemble(runs: Sequence[Path], settings: Sequence[str] = ()) -> Path:
    """Make a run of the mean probability of others, test it and return its directory.

    Args:
        runs: The run directories; data and settings are those of the first.
        settings: Settings to change, ``--key=value``.

    Raises:
        UserError: The runs differ in their classes, or one has trained on images of the test.
    """
    members = {run: load_run(run) for run in runs}
    for run, member in members.items():
        if any(f".{ADDED}" in key for key in member.task.network.state_dict()):
            raise UserError(
                f"{run} was fine-tuned by {type(member.task.finetune).__name__}, whose additions an ensemble cannot"
                " hold; leave it out (those of LoRA and DoRA are merged)."
            )
        classes, first = member.data.class_names, members[runs[0]].data.class_names
        if member.data.pixels != members[runs[0]].data.pixels:
            raise UserError(f"{run} reads other bands or values of the images than {runs[0]}.")
        if classes != first:
            raise UserError(
                f"{run} has the classes {', '.join(classes)}, but {runs[0]} has {', '.join(first)}."
            )
    experiment = _Ensemble(settings, members)
    model, trainer = experiment.model, experiment.trainer
    networks = cast(nn.ModuleList, model.network.backbone.members)
    for network, member in zip(networks, members.values(), strict=True):
        merge(
            member.task.network
        )  # members are plain networks, without the changes of LoRA beside their weights
        network.load_state_dict(member.task.network.state_dict())
        restore_scalings(network, scalings(member.task.network))
    trainer.test(model, experiment.datamodule, verbose=False)
    trainer.save_checkpoint(experiment.run_directory / BEST_CHECKPOINT, weights_only=True)
    return experiment.run_directory


class _Ensemble(Experiment):
    """An experiment that refuses to test on what its members have trained on."""

    def __init__(self, args: Sequence[str], members: dict[Path, LoadedRun]) -> None:
        self.members = members
        super().__init__(
            args, settings=(next(iter(members)) / CONFIG, _configuration(members)), tracked=False
        )

    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        """Look before anything is written."""
        split = self.datamodule.test_split
        tested = {repr(sample) for sample in self.datamodule.samples(split)}
        for run, member in self.members.items():
            data = member.data
            if seen := sum(repr(sample) in tested for sample in data.samples(data.train_split)):
                raise UserError(
                    f"{seen} of the {len(tested)} images of {split!r} are among those that {run} trained on: the score "
                    "would mean nothing. Choose images that no member has seen, --data.init_args.test_split=NAME."
                )
        return super().instantiate_trainer(**kwargs)


def _configuration(members: dict[Path, LoadedRun]) -> JsonObject:
    """Take the first run's settings, its network replaced by all of them."""
    configs = [read_settings(run / CONFIG) for run in members]
    networks = [config["model"]["network"] for config in configs]
    data = next(iter(members.values())).data
    for network in networks:
        network.setdefault("init_args", {})["num_classes"] = data.num_classes
        if data.num_channels != 3:
            network["init_args"]["in_channels"] = data.num_channels
    merged = configs[0] | {"name": "ensemble", "ckpt_path": None}
    merged["model"] |= {
        "compile": False,
        "gradient_checkpointing": False,
        "temperature": 1.0,  # of one member's probabilities
        "finetune": None,  # of a backbone that this network has not
        "network": {
            "class_path": "lightning_seg.networks.ensemble.Ensemble",
            "init_args": {"networks": networks, "sources": [str(run) for run in members]},
        },
    }
    folds = {config["data"].get("init_args", {}).get("fold") for config in configs}
    if len(folds) > 1:  # what one has held out the others have seen
        merged["data"]["init_args"]["fold"] = None
    return merged
