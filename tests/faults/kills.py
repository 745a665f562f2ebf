"""Kill a training run at random instants, continue it each time, and compare it with one that nothing happened to.

    python tests/faults/kills.py [--kills 20] [--seed 0] [FOLDER]

SIGKILL comes after a random time, or while a checkpoint is being written, or in a validation: wherever the program is
then. What is compared at the end: the hash of the last weights and optimizer states, all scores, and all curves.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.faults.programs import Program, experiment, only, result, run

OPTIONS = (
    "--trainer.max_epochs=8",
    "--data.init_args.num_workers=1",
    "--checkpointing.every_n_steps=3",
    "--trainer.accumulate_grad_batches=2",
    "--trainer.callbacks=[tests.faults.saboteurs.Phase]",
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the server of the programs starts
    folder = experiment(chosen.folder or Path(tempfile.mkdtemp()))
    draw = random.Random(chosen.seed)
    run(folder, "exp", "tiny.yaml", "--name=whole", *OPTIONS, seconds=1200)
    whole = result(only(folder / "runs/whole"))
    print(f"whole   {whole['hash'][:16]}  mIoU {whole['scores']['miou']:.6f}", flush=True)

    command: tuple[str, ...] = ("exp", "tiny.yaml", "--name=killed", *OPTIONS)
    counts: dict[str, int] = {}
    kills = 0
    while True:
        (folder / "phase").unlink(missing_ok=True)
        program = Program(folder, *command)
        aim = draw.choice(("training", "validation", "writing")) if kills < chosen.kills else "none"
        hit = kills < chosen.kills and program.until(lambda aim=aim: _is(folder, aim), 1200)
        if hit:
            time.sleep(draw.expovariate(20) if aim == "training" else draw.random() * 0.004)
            program.send(signal.SIGKILL)
        code = program.wait(1200)
        if code == 0:
            break
        assert code == -signal.SIGKILL, program.output
        kills += 1
        path = only(folder / "runs/killed")
        where = _phase(folder)
        counts[where] = counts.get(where, 0) + 1
        print(f"kill {kills:2}  in {where}", flush=True)
        command = ("resume", str(path))
    path = only(folder / "runs/killed")
    killed = result(path)
    print(f"killed  {killed['hash'][:16]}  mIoU {killed['scores']['miou']:.6f}, {kills} kills: {counts}")
    for name in whole:
        print(f"{name:<7} {'equal' if whole[name] == killed[name] else 'DIFFERENT'}")
    return int(whole != killed)


def _phase(folder: Path) -> str:
    """Say what the program was doing when it last told."""
    if list(folder.glob("runs/killed/*/checkpoints/*.part")):
        return "writing"
    try:
        return (folder / "phase").read_text() or "training"
    except FileNotFoundError:
        return "start"


def _is(folder: Path, aim: str) -> bool:
    return _phase(folder) == aim


if __name__ == "__main__":
    sys.exit(main())
