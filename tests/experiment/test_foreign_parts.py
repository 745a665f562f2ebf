"""Networks and data of other libraries in files and arguments: what is the module's, what the adapter's."""

from pathlib import Path

import pytest
import yaml

from lightning_seg.errors import UserError
from lightning_seg.experiment.foreign_parts import adapt_parts

UNET, FPN = "segmentation_models_pytorch.Unet", "segmentation_models_pytorch.FPN"
GIVEN = {"encoder_name": "resnet18", "encoder_weights": None, "decoder_channels": [8] * 5}
NETWORK = {"class_path": UNET, "init_args": GIVEN}


def adapted(*arguments, network=NETWORK, more=()):
    files = {
        Path(f"{i}.yaml"): {"model": {"network": n, "loss": "A"}} for i, n in enumerate((network, *more))
    }
    files, left = adapt_parts(files, ["-c", "0.yaml", "--name=x", *arguments])
    assert all(settings == {"model": {"loss": "A"}} for settings in files.values())
    assert left[:-1] == ["-c", "0.yaml", "--name=x"]
    return yaml.safe_load(left[-1].removeprefix("--model.network="))


def test_a_class_path_of_another_library_is_wrapped_and_its_defaults_recorded():
    found = adapted(network=NETWORK | {"backbone": "encoder", "stride": 32})
    assert found["class_path"] == "lightning_seg.networks.adapters.Adapter"
    assert (
        found["init_args"].items()
        >= {"module": UNET, "backbone": "encoder", "stride": 32, "std": [0.229, 0.224, 0.225]}.items()
    )
    arguments = found["init_args"]["arguments"]
    assert (
        arguments["encoder_name"] == "resnet18"
        and arguments["encoder_depth"] == 5
        and "classes" not in arguments
    )


def test_the_command_line_reaches_module_and_adapter():
    found = adapted(
        "--model.network.init_args.encoder_name", "resnet34", "--model.network.init_args.encoder_depth=4",
        "--model.network.stride=64", "--model.network.init_args.weights=unet.pth",
    )["init_args"]  # fmt: skip
    assert (found["stride"], found["weights"]) == (64, "unet.pth")
    assert (found["arguments"]["encoder_name"], found["arguments"]["encoder_depth"]) == ("resnet34", 4)


def test_a_mapping_on_the_command_line_is_its_settings_one_by_one():
    settings = "{encoder_name: resnet34, encoder_depth: 4, weights: unet.pth}"
    found = adapted(f"--model.network.init_args={settings}")["init_args"]
    assert found["weights"] == "unet.pth"
    assert (found["arguments"]["encoder_name"], found["arguments"]["encoder_depth"]) == ("resnet34", 4)
    once = adapted("--model.network.init_args.arguments={encoder_depth: 4}", network=adapted())
    assert once["init_args"]["arguments"]["encoder_depth"] == 4
    files = {Path("a.yaml"): {"model": {"network": {"class_path": "UNet"}}}}
    arguments = ["--model.network.init_args={backbone: resnet18}"]
    assert adapt_parts(files, arguments) == (files, arguments)
    with pytest.raises(UserError, match=r"model.network.init_args holds settings by their names.*got 5"):
        adapted("--model.network.init_args=5")


def test_another_class_keeps_what_it_knows_too():
    found = adapted(f"--model.network={FPN}")["init_args"]
    assert found["module"] == FPN and found["arguments"]["encoder_name"] == "resnet18"
    assert "decoder_channels" not in found["arguments"]
    ours = adapted("--model.network=UNet", "--model.network.init_args.backbone=resnet18")
    assert ours == {
        "class_path": "lightning_seg.networks.unet.UNet",
        "init_args": {"backbone": "resnet18", "decoder_channels": [8] * 5},
    }
    later = adapted(more=[{"init_args": {"encoder_depth": 4}, "backbone": "encoder"}])["init_args"]
    assert (later["arguments"]["encoder_depth"], later["backbone"]) == (4, "encoder")


def test_a_runs_own_settings_stay_and_can_be_changed():
    once = adapted()
    assert adapted(network=once) == once
    changed = adapted(
        "--model.network.init_args.weights=run:r", "--model.network.init_args.encoder_depth=3",
        "--model.network.init_args.arguments.encoder_name=resnet34", network=once,
    )["init_args"]  # fmt: skip
    assert changed["weights"] == "run:r" and changed["arguments"]["encoder_depth"] == 3
    assert changed["arguments"]["encoder_name"] == "resnet34"


def test_networks_of_this_package_stay_as_they_are():
    files = {Path("a.yaml"): {"model": {"network": {"class_path": "UNet"}}}, Path("b.yaml"): {}}
    arguments = ["--model.network.init_args.backbone=resnet18", "--x"]
    assert adapt_parts(files, arguments) == (files, arguments)


def test_a_wrong_name_is_one_error():
    with pytest.raises(
        UserError, match="model.network.backbon: beside class_path and init_args stand backbone, "
    ):
        adapted(network=NETWORK | {"backbon": "encoder"})
    with pytest.raises(UserError, match="LRASPP has no argument 'num_clases'"):
        adapted(network="torchvision.models.segmentation.LRASPP", more=[{"init_args": {"num_clases": 2}}])
    with pytest.raises(UserError, match="has no 'Unett'.*segmentation_models_pytorch.Unet"):
        adapted(network="segmentation_models_pytorch.Unett")
