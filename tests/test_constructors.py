"""State comes in by constructors: no module sets an attribute of an object that is not its own, or the environment."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What is set all the same, and why. Everything else is given to a constructor, or asked for by a method.
TORCH = "torch's own way to change a layer or a switch"
LIGHTNING = "Lightning has no argument for it"
SETTINGS = "the settings that this object has just read itself, before anything is made of them"
FILES = "how the library that writes the file, or reads it, is told"
ALLOWED = {
    "bench/train.py": {
        "task.log, task.log_dict": "a step without a trainer, which would take what is logged"
    },
    "callbacks/averaging.py": {"norm.momentum": TORCH},
    "callbacks/cudnn.py": {"torch.backends.cudnn.benchmark": TORCH},
    "callbacks/early_stopping.py": {"trainer.should_stop": LIGHTNING},
    "callbacks/nonfinite.py": {"parameter.grad": TORCH},
    "callbacks/range_test.py": {"trainer.should_stop": LIGHTNING},
    "data/rasters.py": {"file.gcps": FILES},
    "experiment/experiment.py": {
        "self.config.modules": SETTINGS,
        "self.config.name": SETTINGS,
        "settings.ckpt_path": SETTINGS,
        "settings.trainer.precision": SETTINGS,
    },
    "experiment/loading.py": {"self.config.model.temperature": SETTINGS},
    "inference/export/exportable.py": {"parent.name": TORCH},
    "inference/export/formats.py": {"options.intra_op_num_threads": FILES},
    "metrics/instance.py": {"coco.dataset": FILES},
    "networks/backbones/dilated_vgg.py": {"module.dilation, module.padding": TORCH, "net.name": TORCH},
    "networks/backbones/low_rank.py": {"layer.__class__": TORCH},
    "networks/base.py": {"parent.name": TORCH},
    "networks/deeplab.py": {"conv.dilation, conv.padding": TORCH},
    "postprocess/chain.py": {"bound.class_names": "a copy of itself, which it returns"},
    "studies/slurm.py": {
        "settings.config.trainer.devices": SETTINGS,
        "os.environ['PATH']": "submitit looks for sbatch there before it writes a script, and has no argument for it",
    },
    "tasks/base.py": {
        "strategy.model": LIGHTNING,
        "sys.path": "where modules of a checkpoint's settings lie",
    },
    "tracking/dashboard.py": {"panel.layout": FILES},
    "tracking/transaction_log.py": {"artifact.use_after_commit": FILES, "entry.local_path": FILES},
    "tracking/wandb_run.py": dict.fromkeys(
        ("os.environ['WANDB_DIR']", "os.environ['WANDB_DATA_DIR']", "os.environ['WANDB_CACHE_DIR']"),
        "wandb's other processes read them, and it has no argument for the last two",
    ),
}


def attributes_set(source: str) -> set[str]:
    """The attributes of other objects than `self` and `cls`, and the environment variables, that a module sets."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            targets = [ast.Attribute(node.args[0], ast.unparse(node.args[1]))]
        single = [
            t for target in targets for t in (target.elts if isinstance(target, ast.Tuple) else [target])
        ]
        others = [
            ast.unparse(target)
            for target in single
            if (isinstance(target, ast.Attribute) and ast.unparse(target.value) not in ("self", "cls"))
            or (isinstance(target, ast.Subscript) and ast.unparse(target.value) == "os.environ")
        ]
        if others:
            found.add(", ".join(others))
    return found


def test_attributes_that_are_set_from_outside_are_these_and_each_has_a_reason():
    package = ROOT / "lightning_seg"
    found = {
        str(path.relative_to(package)): set_there
        for path in package.rglob("*.py")
        if (set_there := attributes_set(path.read_text()))
    }
    assert found == {name: {*reasons} for name, reasons in ALLOWED.items()}


def test_what_the_test_sees():
    source = (
        "self.a = 1\nfor b in c: b.d += 1\ne.f, g = 1, 2\nsetattr(h, i, 1)\nj['k'] = 1\nos.environ['l'] = 'm'"
    )
    assert attributes_set(source) == {"b.d", "e.f", "h.i", "os.environ['l']"}
