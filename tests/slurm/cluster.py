"""A temporary SLURM cluster of one node, with configuration, key, ports and spool in one folder.

Nothing of an installed cluster is read or touched. Needs root, and Debian's packages `slurm-wlm` and
`munge` or their like. The node claims more cores than the machine has, and its GPUs are stand-ins (null
devices): they prove scheduling and CUDA_VISIBLE_DEVICES, not computing.

    python tests/slurm/cluster.py COMMAND...    runs a command with a cluster around it
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "setpriv")
CPUS = 16
GPUS = 4
MEMORY_MB = 200_000
PATIENCE = 6

CONFIGURATION = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its credential has expired: two minutes unless told otherwise.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
# Ended jobs are looked at when all is over, which may take its time.
MinJobAge=7200
# Between SIGTERM and SIGKILL; 30 is SLURM's own default.
KillWait=10
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:standin:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=2
"""


def missing() -> str | None:
    """Return why no cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "starting a SLURM of one's own takes root"
    absent = [tool for tool in TOOLS if shutil.which(tool, path=_PATH) is None]
    return f"SLURM is not installed: no {', '.join(absent)}" if absent else None


# The daemons lie in sbin, which is not on everyone's path.
_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


class Cluster:
    """One controller and one node, as long as the `with` block lasts.

    Attributes
    ----------
    environment : dict
        For the commands that are to see this cluster.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.host = socket.gethostname().split(".")[0]
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SLURM_")},
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder}/bin:{_PATH}",
        }
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._on_sigterm: object = signal.SIG_DFL

    def __enter__(self) -> Cluster:
        # A test run that is ended from outside takes its cluster with it.
        self._on_sigterm = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            self._configure()
            self._start("munged", "--foreground", "--force", *self._munge_options())
            until(lambda: (self.folder / "munge.socket").exists(), 10, "munged has not started")
            self.start_controller()
            self.start_node()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if "slurmctld" in self._daemons:
            with contextlib.suppress(subprocess.SubprocessError):
                self.run("scancel", "--signal=KILL", "--full", "--user=root", timeout=10)
        for name in list(self._daemons):
            self._stop(name)
        for process in self._all_processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, self._on_sigterm)  # type: ignore[arg-type]

    def run(self, *command: str, timeout: float = 30) -> str:
        """Run a command on the cluster and return what it prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout, check=True
        )
        return done.stdout

    def job(self, job_id: str) -> dict[str, str]:
        """Return the controller's record of a job."""
        text = self.run("scontrol", "--oneliner", "show", "job", job_id)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def jobs(self, comment: str = "", state: str = "") -> list[str]:
        """Return the ids of all jobs, tasks as 12_3, whose comment starts so, in submission order."""
        query = ("squeue", "--all", "--array", "--states=all", "--noheader", "--format=%i|%T|%k")
        lines = self.run(*query).splitlines()
        rows = [line.split("|", 2) for line in lines]
        found = [i for i, s, k in rows if k.startswith(comment) and s.startswith(state)]
        return sorted(found, key=lambda name: [int(number) for number in name.split("_")])

    def processes(self, job_id: str) -> list[psutil.Process]:
        """Return the processes of a job, or of a task of an array."""
        name = job_id.split("_")
        variables = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID") if len(name) == 2 else ("SLURM_JOB_ID",)
        return [
            process
            for process in self._all_processes()
            if [_variable(process, variable) for variable in variables] == name
        ]

    def _all_processes(self) -> list[psutil.Process]:
        """Return the processes of all jobs and what supervises them."""
        daemons = {os.getpid(), *(process.pid for process in self._daemons.values())}
        configuration = self.environment["SLURM_CONF"]
        return [
            process
            for process in psutil.process_iter()
            if process.pid not in daemons
            and (_variable(process, "SLURM_CONF") == configuration or _holds(process, self.folder))
        ]

    def preempt(self) -> None:
        """Submit a short job that asks for all GPUs, with the highest priority."""
        self.run("sbatch", "--partition=urgent", f"--gres=gpu:{GPUS}", "--output=/dev/null", "--wrap=true")

    def start_controller(self) -> None:
        self._start("slurmctld", "-D")
        until(lambda: "UP" in self.run("scontrol", "ping"), 20, "slurmctld does not answer")

    def stop_controller(self) -> None:
        self._stop("slurmctld")

    def start_node(self) -> None:
        self._start("slurmd", "-D", "-N", self.host)
        until(lambda: self.run("sinfo", "-h", "-o", "%T").split()[0] in ("idle", "mixed"), 30, "no node")

    def crash_node(self) -> None:
        """Kill the node and all its processes, as in a power cut."""
        slurmd = self._daemons.pop("slurmd")
        slurmd.kill()
        slurmd.wait()
        for process in self._all_processes():
            if _variable(process, "SLURM_JOB_ID") or "slurmstepd" in process.name():
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def _configure(self) -> None:
        for name in ("controller", "node", "bin"):
            (self.folder / name).mkdir()
        for number in range(GPUS):
            # SLURM wants devices; these are /dev/null by another name.
            os.mknod(self.folder / f"gpu{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        key = self.folder / "munge.key"
        key.touch(mode=0o400)
        key.write_bytes(secrets.token_bytes(1024))
        text = CONFIGURATION.format(
            folder=self.folder,
            host=self.host,
            controller_port=_free_port(),
            node_port=_free_port(),
            cpus=CPUS,
            memory=MEMORY_MB,
            gpus=GPUS,
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(
            f"NodeName={self.host} Name=gpu Type=standin File={self.folder}/gpu[0-{GPUS - 1}]\n"
        )
        # Snakemake's job steps drop SLURM_CONF, and would look for the machine's own cluster.
        srun = self.folder / "bin/srun"
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun", path=_PATH)} "$@"\n'
        )
        srun.chmod(0o755)
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")

    def _munge_options(self) -> list[str]:
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid"}
        files |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        return [f"--{option}={self.folder / name}" for option, name in files.items()]

    def _start(self, name: str, *arguments: str) -> None:
        # The kernel ends the daemon with the process that started it, however that ends.
        self._daemons[name] = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", name, *arguments],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=open(self.folder / f"{name}.err", "wb"),  # noqa: SIM115  (the daemon's, as long as it lives)
        )

    def _stop(self, name: str) -> None:
        process = self._daemons.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _variable(process: psutil.Process, name: str) -> str | None:
    """Return a variable of the environment a process was started with."""
    try:
        return process.environ().get(name)
    except (psutil.Error, OSError):
        return None


def _holds(process: psutil.Process, folder: Path) -> bool:
    """Return whether a process has a file of a folder open; slurmstepd overwrites its own environment."""
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(descriptor).startswith(f"{folder}/"):
                    return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], object], seconds: float, message: str) -> None:
    """Wait until a condition is true, or raise TimeoutError; a busy machine gets more time."""
    end = time.monotonic() + PATIENCE * seconds
    while time.monotonic() < end:
        with contextlib.suppress(subprocess.SubprocessError, OSError, IndexError):
            if condition():
                return
        time.sleep(0.2)
    raise TimeoutError(message)


if __name__ == "__main__":
    if reason := missing():
        sys.exit(reason)
    with Cluster() as cluster:
        sys.exit(subprocess.run(sys.argv[1:], env=cluster.environment).returncode)
