"""A real SLURM of one node, on this machine: munged, slurmctld and slurmd from Debian's slurm-wlm and munge.

    python tests/slurm/cluster.py FOLDER     starts it, prints SLURM_CONF, and stops it at Ctrl-C

The partition `high` preempts jobs of `low`, which get SIGTERM and some seconds of grace.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
AuthType=auth/munge
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2,requeue_delay=1
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 MaxTime=60 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=60 State=UP
"""


def missing() -> str:
    """Say what is missing for a cluster here; nothing if it can be started."""
    absent = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not find(name)]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "starting SLURM needs root"


def find(name: str) -> str | None:
    """Find a program, those of the system included."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class Cluster:
    """A running cluster; use it as a context.

    Args:
        folder: Where it keeps its state; the path must be short.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"

    def __enter__(self) -> "Cluster":
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        ports = [_free_port(), _free_port()]
        host = socket.gethostname().split(".")[0]
        text = CONFIGURATION.format(host=host, folder=self.folder, ctld_port=ports[0], d_port=ports[1])
        self.conf.write_text(text)
        os.environ["SLURM_CONF"] = str(self.conf)
        if subprocess.run(["munge", "-n"], capture_output=True).returncode:
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            subprocess.run(["runuser", "-u", "munge", "--", find("munged"), "--force"], check=True)
        for name in ("slurmctld", "slurmd"):
            subprocess.run([find(name)], check=True)
        deadline = time.monotonic() + 60
        while "idle" not in slurm("sinfo", "--noheader", "--format=%T"):
            if time.monotonic() > deadline:
                raise TimeoutError((self.folder / "slurmctld.log").read_text()[-2000:])
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        slurm("scancel", "--user=root", "--signal=KILL", "--full", check=False)
        for name in ("slurmd", "slurmctld"):
            os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGTERM)
        del os.environ["SLURM_CONF"]


def slurm(*command: str, check: bool = True) -> str:
    """Run one of SLURM's commands and return what it says."""
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=60).stdout


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


if __name__ == "__main__":
    if problem := missing():
        sys.exit(problem)
    with Cluster(Path(sys.argv[1]).absolute()) as cluster:
        print(f"export SLURM_CONF={cluster.conf}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
