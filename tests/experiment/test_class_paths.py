"""Short names and class paths: the same class whatever was imported before, or one error that helps."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lightning_seg import PUBLIC
from lightning_seg.errors import UserError
from lightning_seg.experiment.class_paths import PLACES, expand_arguments, expand_settings
from lightning_seg.experiment.experiment import ExperimentSettings
from tests.processes import forked_python

YAML = """
model:
  network: {class_path: UNet, init_args: {backbone: test_resnet, weights: false}}
  loss:
    class_path: CompoundLoss
    init_args: {losses: [DiceLoss, {class_path: CrossEntropyLoss, init_args: {ignore_index: 255}}]}
  optimizer: {class_path: AdamW, init_args: {lr: 3e-3}}
  lr_scheduler: {class_path: PolynomialLR, init_args: {power: 0.9}}
  finetune: LinearProbe
  inference: {class_path: SlidingWindow, init_args: {size: [64, 64]}}
  postprocess: [FillHoles, {class_path: RemoveSmall, init_args: {smallest: 3}}]
  metrics: [BoundaryF1, Trimap]
data:
  class_path: Shapes
  init_args:
    batch_size: 2
    crop_size: [64, 64]
    transforms: [RandomVerticalFlip, {class_path: Cutout, init_args: {holes: 1}}]
    mix: {class_path: CutMix}
trainer:
  callbacks: [EMA, {class_path: LearningRateMonitor, init_args: {logging_interval: step}}]
"""
FULL = {
    "model.network.class_path": "lightning_seg.networks.unet.UNet",
    "model.loss.class_path": "lightning_seg.training.losses.CompoundLoss",
    "model.optimizer.class_path": "torch.optim.AdamW",
    "model.lr_scheduler.class_path": "torch.optim.lr_scheduler.PolynomialLR",
    "model.finetune.class_path": "lightning_seg.training.finetune.policies.LinearProbe",
    "model.inference.class_path": "lightning_seg.inference.inferers.SlidingWindow",
    "data.class_path": "lightning_seg.data.datasets.shapes.Shapes",
    "data.init_args.mix.class_path": "lightning_seg.data.transforms.mixing.CutMix",
}


def settings(path: Path, *args: str):
    return ExperimentSettings(["-c", str(path), *args]).config


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    file = tmp_path / "short.yaml"
    file.write_text(YAML)
    return file


def test_short_names_in_a_file_are_full_paths_in_what_the_run_keeps(experiment):
    config = settings(experiment)
    for key, path in FULL.items():
        assert config[key] == path
    losses = config.model.loss.init_args.losses
    assert [loss.class_path for loss in losses] == ["lightning_seg.training.losses.DiceLoss", "torch.nn.CrossEntropyLoss"]  # fmt: skip
    assert [c.class_path for c in config.trainer.callbacks] == [
        "lightning_seg.callbacks.averaging.EMA",
        "lightning.pytorch.callbacks.LearningRateMonitor",
    ]
    assert [t.class_path.rpartition(".")[2] for t in config.data.init_args.transforms] == ["RandomVerticalFlip", "Cutout"]  # fmt: skip


@pytest.mark.parametrize(
    "argument",
    ["--model.network=UNetPlusPlus", "--model.network.class_path=UNetPlusPlus", "--model.network={class_path: UNetPlusPlus}"],
)  # fmt: skip
def test_short_names_on_the_command_line(experiment, argument):
    config = settings(experiment, argument)
    assert config.model.network.class_path == "lightning_seg.networks.unetplusplus.UNetPlusPlus"


def test_a_network_of_another_library_is_wrapped(experiment):
    module = "{class_path: segmentation_models_pytorch.Unet, init_args: {encoder_name: resnet18, encoder_weights: null}}"
    for network in (module, f"{{class_path: Adapter, init_args: {{module: {module}}}}}"):
        adapter = settings(experiment, f"--model.network={network}").model.network.init_args
        assert (
            adapter.module == "segmentation_models_pytorch.Unet"
            and adapter.arguments["encoder_weights"] is None
        )


def test_numbers_within_a_value_keep_their_meaning(experiment):
    config = settings(experiment, "--model.optimizer={class_path: SGD, init_args: {lr: 1e-3, momentum: .5}}")
    assert (config.model.optimizer.init_args.lr, config.model.optimizer.init_args.momentum) == (1e-3, 0.5)


def test_an_option_and_its_value_may_be_two_words(experiment):
    assert settings(experiment, "--data", "Shapes").data.class_path == FULL["data.class_path"]
    assert expand_arguments(["--model.loss+", "DiceLoss", "--name", "UNet"])[3] == "UNet"


def test_the_name_of_an_experiment_and_tags_are_no_classes():
    arguments = ["--name=UNet", "--wandb.tags=[UNet, DiceLoss]", "-c", "UNet"]
    assert expand_arguments(arguments) == arguments


@pytest.mark.parametrize(
    "setting", [s for s in PLACES if any(p.startswith("lightning_seg") for p in PLACES[s])]
)
def test_no_setting_has_two_of_our_classes_of_one_name(setting):
    for name, module in PUBLIC.items():
        if any(module.startswith(place) for place in PLACES[setting]):
            try:
                expanded = expand_settings(name, setting)
            except UserError as error:
                assert any(library in str(error) for library in ("torch", "lightning.pytorch"))
            else:
                assert expanded == f"{module}.{name}"


def test_a_name_that_a_library_has_too_is_one_error_with_both(experiment):
    with pytest.raises(UserError) as caught:
        settings(experiment, "--data.init_args.transforms=[RandAugment]")
    for path in (
        "lightning_seg.data.transforms.randaugment.RandAugment",
        "torchvision.transforms.v2.RandAugment",
    ):
        assert path in str(caught.value)
    assert "write one of them" in str(caught.value)


def test_what_was_imported_before_changes_nothing(experiment):
    """MONAI, smp and this test define classes of the same names, which jsonargparse alone would count, too."""

    class DiceLoss(torch.nn.Module):
        """Anybody's."""

    globals()["DiceLoss"] = DiceLoss
    DiceLoss.__qualname__ = "DiceLoss"
    import segmentation_models_pytorch.losses  # noqa: F401

    config = settings(experiment, "--model.loss=DiceLoss")
    assert config.model.loss.class_path == "lightning_seg.training.losses.DiceLoss"


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("--model.network=UNett", "UNet"),
        ("--model.loss=DiceLos", "DiceLoss"),
        ("--model.optimizer=AdamWW", "AdamW"),
        ("--data=CamVidd", "CamVid"),
        ("--model.network=lightning_seg.networks.unet.UNett", "lightning_seg.networks.unet.UNet"),
        ("--model.network=lightning_seg.networks.unett.UNet", "lightning_seg.networks.unet.UNet"),
        ("--model.network=lightning_seg.unet.UNet", "lightning_seg.networks.unet.UNet"),
        ("--model.optimizer.class_path=torch.optim.AdamWW", "torch.optim.AdamW"),
        ("--model.optimizer.class_path=torch.optims.AdamW", "torch.optim.AdamW"),
        ("--data=mydatta.Mine", "mydata.Mine"),
        ("--data=mydatta.Mina", "mydata.Mine"),
    ],
)
def test_a_misspelt_class_names_the_nearest(experiment, argument, hint):
    Path("mydata.py").write_text("class Mine: ...\n")
    with pytest.raises(UserError) as caught:
        settings(experiment, argument)
    assert f"Did you mean {hint}?" in str(caught.value)
    assert str(caught.value).count("\n") < 4


def test_a_module_that_is_not_there_suggests_no_class_that_is_not_there(experiment):
    Path("mydata.py").write_text("class Mine: ...\n")
    with pytest.raises(UserError, match="no module 'mydat'") as caught:
        settings(experiment, "--data=mydat.Foo")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import torch\nvalue = 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import not_installed_anywhere\n", "No module named 'not_installed_anywhere'"),
        ("def broken(:\n", "SyntaxError"),
        ("from lightning_seg.errors import Nothing\n", "ImportError: cannot import name 'Nothing'"),
    ],
)
def test_a_module_that_fails_says_what_it_raised(experiment, source, says):
    Path("failing.py").write_text(source)
    with pytest.raises(UserError) as caught:
        settings(experiment, "--model.network=failing.Net")
    sys.modules.pop("failing", None)
    assert f"model.network: failing cannot be imported: {says}" in str(caught.value)


def test_a_class_of_0_1_0_ends_in_one_error_with_its_new_name(experiment):
    with pytest.raises(UserError, match=r"is now lightning_seg.training.losses.DiceLoss"):
        settings(experiment, "--model.loss=lightning_seg.losses.Dice")
    with pytest.raises(UserError, match=r"CamVid is now lightning_seg.data.datasets.camvid.CamVid"):
        settings(experiment, "--data=lightning_seg.data.camvid.CamVid")


def test_a_class_within_a_class_is_no_error():
    assert (
        expand_settings("collections.abc.Mapping.register", "model.loss")
        == "collections.abc.Mapping.register"
    )


NETWORK = """
from lightning_seg import Linear


class MyNet(Linear):
    '''Somebody's own.'''
"""


@pytest.fixture
def own_module(experiment, tmp_path):
    def write(folder: str) -> Path:
        content = yaml.safe_load(YAML)
        content["model"]["network"]["class_path"] = "mynet.MyNet"
        (tmp_path / "experiments").mkdir()
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "mynet.py").write_text(NETWORK)
        file = tmp_path / ("experiments" if folder == "." else folder) / "mine.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    yield write
    sys.modules.pop("mynet", None)


@pytest.mark.parametrize("folder", [".", "experiments", "elsewhere"])
def test_modules_in_the_current_folder_and_beside_the_yaml_are_importable(own_module, folder):
    assert settings(own_module(folder)).model.network.class_path == "mynet.MyNet"


def test_a_run_states_the_folder_of_modules_that_lie_elsewhere(own_module, tmp_path):
    """So that it can be continued and tested, and made as a job: its config.yaml does not lie beside them."""
    kept = ExperimentSettings(["-c", str(own_module("elsewhere"))])
    assert kept.config.modules == [str(tmp_path / "elsewhere")]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(kept.text)
    code = "from lightning_seg.experiment.experiment import ExperimentSettings as E; E(['-c', 'run/config.yaml'])"
    done = subprocess.run([forked_python(), "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_further_folders_can_be_stated(own_module, tmp_path):
    file = own_module("elsewhere").rename(tmp_path / "mine.yaml")
    with pytest.raises(UserError, match="no module 'mynet'"):
        settings(file)
    assert settings(file, "--modules=[elsewhere]").model.network.class_path == "mynet.MyNet"


def test_modules_that_are_found_anyway_are_not_stated(own_module):
    assert settings(own_module("experiments")).modules == []


def test_a_module_of_the_users_own_hides_no_library(own_module):
    own_module(".")
    Path("yaml.py").write_text("raise SystemExit('shadowed')\n")
    assert settings(Path("experiments/mine.yaml")).model.network.class_path == "mynet.MyNet"
    assert sys.path.index(str(Path.cwd())) > sys.path.index(str(Path(yaml.__file__).parent.parent))


def test_the_console_script_finds_them_too(own_module, tmp_path):
    own_module(".")
    script = Path(sys.executable).parent / "lightning-seg"
    done = subprocess.run(
        [forked_python(), script, "preview-data", "mine", "--output", "out.png", "--data.init_args.num_workers=0"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.png").exists()


def test_help_of_a_class_knows_short_names():
    expanded = expand_arguments(
        ["--model.network.help=UNet", "--data.help", "CamVid", "--model.loss.help=Nothing"]
    )
    assert expanded == [
        "--model.network.help=lightning_seg.networks.unet.UNet",
        "--data.help",
        "lightning_seg.data.datasets.camvid.CamVid",
        "--model.loss.help=Nothing",
    ]
