"""The manifest of a run: versions, seeds and machine, and the digest of every output."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from shearbench import __version__
from shearbench.errors import ContractError
from shearbench.files.text import write_text
from shearbench.files.writing import file_digest

RULE = "manifest"
_GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")
PACKAGES = (
    "anacal galsim h5py matplotlib ngmix numba numpy pandas pyarrow pydantic "
    "scikit-learn scipy snakemake torch"
).split()


def make_manifest(
    outputs: Iterable[str | os.PathLike[str]],
    root: str | os.PathLike[str],
    seeds: Mapping[str, Any],
    inputs: Iterable[Mapping[str, Any]] = (),
    packages: Sequence[str] = PACKAGES,
) -> dict[str, Any]:
    """Return the manifest of a run.

    Parameters
    ----------
    outputs : iterable of path-like
        Files in `root` or its subfolders.
    root : path-like
        The run's folder; paths in the manifest are relative to it.
    seeds : mapping
        The seeds of the run and of its networks.
    inputs : iterable of mapping
        External files that the run read (`shearbench.data.external.contents`), each once.
    packages : sequence of str
        Distributions whose versions are noted; one that is not installed has None.

    Returns
    -------
    dict
        ``made`` (UTC, ISO 8601), ``outputs`` ({path: {sha256, bytes}}), ``inputs`` ({path: {sha256,
        bytes}}, paths as the configuration gives them), ``seeds``, ``python``,
        ``shearbench`` and ``packages`` (versions), ``git`` (see `git_state`; of the checkout that
        this package is in), ``machine`` ({system, cpu, cores, memory_bytes, gpus}).

    Raises
    ------
    FileNotFoundError
        An output does not exist.
    ValueError
        An output is not in `root`.
    """
    root = Path(root)
    entries = {}
    # Links are not resolved: a folder of the run may be a link to another disk.
    above = os.path.abspath(root)
    for output in sorted(Path(os.path.abspath(output)).relative_to(above) for output in outputs):
        path = root / output
        entries[output.as_posix()] = {"sha256": file_digest(path), "bytes": path.stat().st_size}
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "outputs": entries,
        "inputs": {file["path"]: {"sha256": file["sha256"], "bytes": file["bytes"]} for file in inputs},
        "seeds": dict(seeds),
        "python": platform.python_version(),
        "shearbench": __version__,
        "packages": {name: _version(name) for name in packages},
        "git": git_state(__file__),
        "machine": machine(),
    }


def write_manifest(path: str | os.PathLike[str], manifest: Mapping[str, Any]) -> None:
    """Write a manifest as JSON, whole or not at all."""
    write_text(path, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a manifest, see `make_manifest`.

    Raises
    ------
    ContractError
        The file is not a manifest.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        for entry in content["outputs"].values():
            entry["sha256"]
        return content
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractError.of(path, "outputs", repr(error), "a manifest of a run", RULE) from error


def verify(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> list[str]:
    """Compute the digest of every output again and compare it with the manifest.

    Parameters
    ----------
    path : path-like
        The manifest.
    root : path-like, optional
        The run's folder; the manifest's own by default.

    Returns
    -------
    list of str
        One line for each output that is missing or differs; empty if there is none.

    Raises
    ------
    ContractError
        The file is not a manifest.
    """
    root = Path(path).parent if root is None else Path(root)
    problems = []
    for name, entry in read_manifest(path)["outputs"].items():
        expected = entry["sha256"]
        if not (root / name).is_file():
            problems.append(f"{name}: missing")
        elif (found := file_digest(root / name)) != expected:
            problems.append(f"{name}: SHA-256 is {found}, the manifest has {expected}")
    return problems


def git_state(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the commit of the checkout that a file of code belongs to.

    Parameters
    ----------
    file : path-like
        A file of the package. If git does not track it, the repository around it is another project's.

    Returns
    -------
    dict
        ``commit``; ``dirty``, whether tracked files differ from the commit or there is untracked code;
        ``reason`` for having no commit. Each is None if it does not apply.
    """
    path = Path(file).resolve()
    # Variables such as GIT_DIR, which git sets for its hooks, may name another repository.
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_PLACES}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(path.parent), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True, env=environment
        ).stdout

    try:
        top = git("rev-parse", "--show-toplevel").strip()
        if not git("ls-files", "--", path.name):
            return _no_commit(f"the code in {path.parent} is not part of the repository {top}")
        commit = git("rev-parse", "HEAD").strip()
        entries = git("-C", top, "status", "--porcelain").splitlines()
    except FileNotFoundError:
        return _no_commit("git is not installed")
    except subprocess.CalledProcessError as error:
        return _no_commit((error.stderr.strip() or str(error)).splitlines()[0])
    except (OSError, subprocess.SubprocessError) as error:
        return _no_commit(str(error))
    code = tuple(f"?? {folder}/" for folder in ("src", "scripts", "workflow"))
    dirty = any(not entry.startswith("??") or entry.startswith(code) for entry in entries)
    return {"commit": commit, "dirty": dirty, "reason": None}


def _no_commit(reason: str) -> dict[str, Any]:
    return {"commit": None, "dirty": None, "reason": reason}


def machine() -> dict[str, Any]:
    """Return system, processor, usable cores, memory and GPUs of this machine."""
    gpus = _output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": usable,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus.splitlines() if gpus else [],
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output_of(program: str, *arguments: str) -> str | None:
    """Return the output of a program, or None if it is not installed or fails."""
    if shutil.which(program) is None:
        return None
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
