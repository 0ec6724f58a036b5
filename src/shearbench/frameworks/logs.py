"""The log of the packages around JAX."""

from __future__ import annotations

import sys


def leave_stderr_open() -> None:
    """Make absl, the log of the packages around JAX, write to the process's own standard error.

    Otherwise it writes to that of the moment when it was imported, and closes it at the end of the process;
    in a job, this is the copy for the job's log, which is closed before.
    """
    if "absl.logging" in sys.modules:
        sys.modules["absl.logging"].get_absl_handler().python_handler.setStream(sys.__stderr__)
