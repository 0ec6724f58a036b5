"""Training on several GPUs: start its processes by torchrun. This module is also the program they run."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from shearbench.errors import ConfigError, ShearbenchError
from shearbench.jobs.devices import claim_gpus, visible_gpus
from shearbench.jobs.processes import end_with
from shearbench.training.termination import Terminated, termination
from shearbench.training.workers import joined

_ARGUMENTS, _RESULT = "arguments.pickle", "result.pickle"
_LOOK = 0.2  # seconds between two checks whether the processes still run


def launch(processes: int, function: Callable[..., Any], arguments: Sequence[Any], threads: int = 1) -> Any:
    """Run a function in several processes of this machine, each with its own GPU.

    Their output goes to the standard error of this process. If one of them dies, the others are ended; if
    this process dies, all are ended.

    Parameters
    ----------
    processes : int
        Number of processes, and of GPUs. On a machine without GPUs they use the CPU.
    function : callable
        A function of a module that can be imported. It is called as ``function(*arguments, workers,
        device)``, with the `Workers` and the device of the process.
    arguments : sequence
        Values that can be pickled.
    threads : int
        Number of CPU threads of each process.

    Returns
    -------
    object
        The result of the function in the first process.

    Raises
    ------
    ConfigError
        This job has GPUs, but fewer than `processes`.
    ShearbenchError
        The function raised it in the processes.
    ChildProcessError
        A process died.
    Terminated
        This process or one of the others received SIGTERM or Ctrl-C, and the state is saved.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **_gpus(processes)}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, _ARGUMENTS).write_bytes(pickle.dumps((function, tuple(arguments))))
        with termination() as terminated:
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=localhost"]
            module = [f"--nproc-per-node={processes}", "-m", __name__, folder, str(os.getpid())]
            process = subprocess.Popen(
                [sys.executable, *torchrun, *module],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment,
                start_new_session=True,  # so that Ctrl-C reaches only this process, which ends the others
            )
            assert process.stdout is not None
            printer = threading.Thread(target=_print, args=(process.stdout,))
            printer.start()
            while process.poll() is None:
                if terminated.wait(_LOOK):
                    process.send_signal(signal.SIGTERM)
                    process.wait()
            printer.join()
        if terminated.is_set():
            raise Terminated(terminated.signal)
        try:
            result = pickle.loads(Path(folder, _RESULT).read_bytes())
        except FileNotFoundError:
            raise ChildProcessError(
                f"one of the {processes} processes of this training died; its last messages are above"
            ) from None
    if isinstance(result, BaseException) or result is Terminated:
        raise result
    return result


def _gpus(processes: int) -> dict[str, str]:
    """Return the environment variables by which each process gets one GPU."""
    names = visible_gpus()
    if not names:
        return {}
    if len(names) < processes:
        raise ConfigError(f"training on {processes} GPUs: this job has only {len(names)}")
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[k] for k in claim_gpus(names, processes))}


def _print(lines: IO[str]) -> None:
    for line in lines:
        sys.stderr.write(line)


def main(folder: Path, launcher: int) -> None:
    """Run the function of `launch` in this process, which torchrun started, and write its result.

    Parameters
    ----------
    folder : path
        It holds the pickled arguments, and takes the result.
    launcher : int
        Process id of the process that called `launch`.
    """
    end_with(launcher, folder)
    end_with(os.getppid())  # torchrun
    arguments = folder / _ARGUMENTS
    result: Any
    code = 0
    try:
        with joined() as (workers, device):
            function, given = pickle.loads(arguments.read_bytes())
            result = function(*given, workers, device)
            if not workers.first:
                return
    except ShearbenchError as error:  # all processes raise it
        result, code = error, 1
    except Terminated:
        result, code = Terminated, 1
    except BaseException:
        # An orderly exit could wait for ever for processes that are stuck.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    temporary = folder / f"{os.getpid()}.part"
    temporary.write_bytes(pickle.dumps(result))
    temporary.rename(folder / _RESULT)
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
