"""Removal of files that are no longer needed: temporary files after a kill, states of finished trainings.

The temporary files are those of `shearbench.files.writing.atomic`, which takes their names from here.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

_NAME = re.compile(r"\.(?P<stem>.+)\.(?P<host>[^.]+)\.(?P<pid>\d+)\.part(?P<suffix>\.[^.]*)?")
# As earlier versions named them; the stem may end with a seed.
_WITHOUT_HOST = re.compile(r"\.[^.]+(\.seed\d+)?\.(?P<pid>\d+)\.part(\.[^.]*)?")
_DAY = 86400  # seconds
_CLOCKS = 3600  # seconds by which the clock of a file server may differ from this host's clock


def temporary_name(path: Path) -> Path:
    """Return the temporary path of a file that this process writes; it names the host and the process."""
    return path.with_name(f".{path.stem}.{_host()}.{os.getpid()}.part{path.suffix}")


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove the temporary files that killed processes left in a folder and in the folders below it.

    A file of this host is removed if its process has ended. Processes of other hosts cannot be seen: a file
    of another host is removed if the complete file exists and is newer.
    A name without a host, as earlier versions gave, is removed a day after the file was written last, if no
    process of this host has its number.

    Parameters
    ----------
    folder : path-like

    Returns
    -------
    list of pathlib.Path
        The files that were removed.
    """
    removed = []
    for place in folders_below(folder):
        for path in place.glob(".*.part*"):
            with contextlib.suppress(OSError):  # renamed or removed by its process, or another user's
                if _is_left(path):
                    path.unlink()
                    removed.append(path)
    return removed


def remove_states(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove the states of those trainings of a run that have ended, and the locks beside them.

    Parameters
    ----------
    folder : path-like
        The run's folder.

    Returns
    -------
    list of pathlib.Path
        The states that were removed.
    """
    removed = []
    for top in (
        Path(folder, name) for name in ("", "encoders", "calibrations", "morphology", "morphology/encoders")
    ):
        for state in (top / "checkpoints").rglob("seed*.pt"):
            training = state.relative_to(top / "checkpoints").with_suffix("")
            if (top / "models" / training / "model.pt").exists():
                state.unlink()
                state.with_name(f"{state.name}.lock").unlink(missing_ok=True)
                removed.append(state)
    return removed


def folders_below(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a folder and all folders below it, those behind symbolic links too, each once."""
    seen: set[str] = set()
    for name, below, _ in os.walk(folder, followlinks=True):
        below[:] = [one for one in below if os.path.realpath(os.path.join(name, one)) not in seen]
        seen.update(os.path.realpath(os.path.join(name, one)) for one in below)
        yield Path(name)


def _is_left(path: Path) -> bool:
    written = path.stat().st_mtime
    if old := _WITHOUT_HOST.fullmatch(path.name):
        return time.time() - written > _DAY and not psutil.pid_exists(int(old["pid"]))
    found = _NAME.fullmatch(path.name)
    if found is None:
        return False
    if found["host"] != _host():
        complete = path.with_name(found["stem"] + (found["suffix"] or ""))
        return complete.exists() and complete.stat().st_mtime > written
    try:
        # A process that began after the last write is another one, to which the system gave the same number.
        return psutil.Process(int(found["pid"])).create_time() > written + _CLOCKS
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _host() -> str:
    return os.uname().nodename.replace(".", "_")
