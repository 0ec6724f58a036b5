"""Print what this machine has for a run, and what a run leaves out because of it.

``make doctor`` or ``python -m shearbench.tools.doctor [config/paper.yaml]``. It works before the packages are
installed, so this module imports the standard library only, and the rest where it is needed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

OLDEST = (3, 11)
"""Oldest version of Python that runs the workflow."""
_PACKAGES = ("galsim", "h5py", "matplotlib", "numba", "pandas", "pyarrow", "pydantic", "snakemake", "torch")
_CONDA = ("conda", "mamba", "micromamba")
_LATEX = ("latexmk", "tectonic", "pdflatex")
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Finding(NamedTuple):
    """One line of the report.

    Attributes
    ----------
    name : str
    found : str
    meaning : str
        What a run does because of it; empty if there is nothing to say.
    fatal : bool
        Whether no run is possible.
    """

    name: str
    found: str
    meaning: str = ""
    fatal: bool = False


def examine(
    which: Callable[[str], str | None] = shutil.which,
    importable: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None,
    gpus: Callable[[], list[str]] | None = None,
    version: tuple[int, ...] = sys.version_info[:3],
) -> list[Finding]:
    """Look for everything that a run uses.

    Parameters
    ----------
    which, importable, gpus, version
        How programs, packages, GPUs and Python's version are found; others than the defaults are for tests.

    Returns
    -------
    list of Finding
    """
    old = tuple(version) < OLDEST
    missing = [name for name in _PACKAGES if not importable(name)]
    cards = (_gpus if gpus is None else gpus)()
    conda = next(filter(which, _CONDA), None)
    ngmix = importable("ngmix")
    latex = next(filter(which, _LATEX), None)
    memory = _memory_gb()
    return [
        Finding(
            "Python",
            ".".join(map(str, version)),
            "3.11 or newer is needed: make results PYTHON=python3.13" if old else "",
            fatal=old,
        ),
        Finding(
            "packages",
            f"{len(_PACKAGES) - len(missing)} of {len(_PACKAGES)} found",
            f"missing: {', '.join(missing)}; make results installs them into .venv" if missing else "",
        ),
        Finding("cores", str(_cores()), "as many jobs run at a time; CORES=n sets another number"),
        Finding(
            "memory",
            f"{memory:.0f} GB" if memory else "unknown",
            "less than 4 GB: use CORES=1" if memory and memory < 4 else "",
        ),
        Finding("disk", f"{shutil.disk_usage('.').free / 1e9:.0f} GB free here", ""),
        Finding(
            "GPU",
            ", ".join(cards) or "none",
            "trainings and measurements by networks use it" if cards else "networks are trained on the CPU",
        ),
        Finding("conda", conda or "none", "" if conda or ngmix else "it is needed for ngmix only"),
        Finding(
            "ngmix",
            "installed" if ngmix else "not installed",
            ""
            if ngmix
            else f"make results installs it with {conda}"
            if conda
            else "the estimators ngmix-* are left out; install conda, mamba or micromamba, or ngmix itself",
        ),
        Finding(
            "LaTeX",
            latex or "none",
            "" if latex else "paper/main.tex is written, but no PDF can be made of it here",
        ),
        Finding(
            "SLURM",
            "sbatch" if which("sbatch") else "none",
            "make slurm submits a run as jobs" if which("sbatch") else "make slurm does not work here",
        ),
    ]


def left_out(*paths: str) -> tuple[str, dict[str, str]]:
    """Return the name of the run of some configuration files, and what it leaves out on this machine.

    Parameters
    ----------
    *paths : str
        Configuration files, merged into the default one.

    Returns
    -------
    run : str
    reasons : dict of str to str
        The names of the estimators that are left out, with the reasons.

    Raises
    ------
    ConfigError
        The configuration has faults.
    """
    from shearbench.config.reading import DEFAULT, load
    from shearbench.plan.run import unavailable

    config = load(DEFAULT, *paths)
    return config.run, unavailable(config)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gb() -> float | None:
    """Return the memory of this machine, or of the container that this process is in [GB]."""
    known = []
    with contextlib.suppress(ValueError, OSError):
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _LIMITS:
        try:
            with open(path) as file:
                known.append(int(file.read()))
        except (OSError, ValueError):  # no container, or no limit ("max")
            continue
    return min(known) / 1e9 if known else None


def _gpus() -> list[str]:
    """Return the models of the NVIDIA GPUs of this machine; an Apple GPU is not used."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def report(findings: Sequence[Finding]) -> str:
    """Return the findings as lines of text: name, finding, meaning."""
    width = max(len(one.found) for one in findings)
    return "\n".join(
        f"{one.name:<9} {one.found:<{min(width, 30)}}  {one.meaning}".rstrip() for one in findings
    )


def main(*paths: str) -> None:
    """Print the report; the exit status is 1 if no run is possible."""
    findings = examine()
    print(f"{platform.system()} {platform.machine()}")
    print(report(findings))
    if any(one.fatal for one in findings):
        sys.exit(1)
    if importlib.util.find_spec("pydantic") is None or importlib.util.find_spec("yaml") is None:
        print("\nThe configuration is examined once the packages are installed.")
        return
    from shearbench.config.reading import DEFAULT
    from shearbench.errors import ConfigError

    if not os.path.exists(DEFAULT):
        print("\nIn a clone of the repository, this also says what a run leaves out.")
        return
    try:
        run, reasons = left_out(*paths)
    except ConfigError as error:
        sys.exit(f"\nThe configuration has errors:\n{error}")
    conda = next(filter(shutil.which, _CONDA), None)
    if not reasons:
        print(f"\nThe run '{run}' leaves nothing out.")
    elif conda:
        print(f"\nThe run '{run}' leaves nothing out: make gets {', '.join(reasons)} with {conda}.")
    else:
        for reason in dict.fromkeys(reasons.values()):
            names = ", ".join(name for name, why in reasons.items() if why == reason)
            print(f"\nThe run '{run}' leaves out {names}: {reason}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
