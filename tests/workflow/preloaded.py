"""Calls of Snakemake by a process that has imported it: the import takes longer than planning does.

A server imports Snakemake once. For each call it forks a process, which gets the folder, the environment and
the outputs of a `python -m snakemake` of its own, and ends as that does. The server imports nothing of this
package: each call imports what its Snakefile names. Tests of kills and of locks start the real command.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path


def run(folder: Path, *arguments: str, timeout: float = 1500) -> tuple[int, str]:
    """Run snakemake in a folder; return its exit status and all that it printed."""
    server, answer = _server(), ""
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as place:
        outputs = [f"{place}/stdout", f"{place}/stderr"]
        for output in outputs:
            Path(output).touch()
        print(json.dumps([str(folder), dict(os.environ), outputs, arguments]), file=server.stdin, flush=True)
        try:
            if select.select([server.stdout], [], [], timeout)[0]:
                answer = server.stdout.readline()
        finally:
            if not answer:  # it takes too long, or the tests are interrupted
                _server.cache_clear()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)
        printed = "".join(Path(output).read_text() for output in outputs)
    assert answer, f"no end after {timeout} s: snakemake {' '.join(arguments)}\n{printed[-4000:]}"
    return int(answer), printed


@functools.cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, __file__]
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        server.communicate(timeout=10)


def serve() -> None:
    """Answer each line of standard input, a call, with the exit status of a process that has made it."""
    import snakemake.cli

    snakemake.cli.get_argument_parser()  # imports the plugins
    gc.freeze()  # no call goes through the objects of the import again
    for line in sys.stdin:
        folder, environment, outputs, arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            os.chdir(folder)
            sys.path[0] = folder  # as with -m
            os.environ.clear()
            os.environ.update(environment)
            sys.argv[1:] = arguments
            for stream, path in enumerate((os.devnull, *outputs)):
                os.dup2(os.open(path, os.O_RDWR), stream)
            snakemake.cli.main()  # raises SystemExit, so the process ends as any other
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
