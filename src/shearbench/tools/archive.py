"""Pack a finished run into one file that can be handed in, and draw its figures again elsewhere.

``make archive`` or ``python -m shearbench.tools.archive results/quick`` writes ``results/quick.tar.gz``:
figures, tables, metrics, configuration, manifest, and a description of all (RO-Crate 1.1). With ``--redraw``,
the figures are drawn from the metrics of an unpacked archive.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import mimetypes
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shearbench.api.runs import FinishedRun
from shearbench.errors import ShearbenchError
from shearbench.files.writing import atomic, file_digest
from shearbench.paper.manifest import read_manifest

PARTS = ("figures", "tables", "paper", "metrics")
"""Folders of a run that an archive always has."""
CRATE = "ro-crate-metadata.json"
_CHECKOUT = Path(__file__).parents[3]
_SPECIFICATION = "https://w3id.org/ro/crate/1.1"
_LICENCE = "https://spdx.org/licenses/BSD-3-Clause"
_TYPES = {".tex": "text/x-tex", ".yaml": "text/yaml", ".parquet": "application/vnd.apache.parquet"}


def pack(
    folder: str | Path, models: bool = False, stamps: bool = False, path: str | Path | None = None
) -> Path:
    """Write the archive of a finished run.

    Parameters
    ----------
    folder : path-like
        Such as ``results/quick``.
    models, stamps : bool
        Whether it has the trained networks, and the catalogs and stamps.
    path : path-like, optional
        The archive; by default ``<folder>.tar.gz``.

    Returns
    -------
    Path
        The archive.

    Raises
    ------
    ShearbenchError
        The run is not finished, or one of its files was changed since.
    """
    run = FinishedRun(folder)
    manifest = read_manifest(run.folder / "manifest.json")
    trained = [part for part in ("models", "calibrations") if (run.folder / part).is_dir()]
    parts = [*PARTS, *(trained if models else []), *(["catalogs", "stamps"] if stamps else [])]
    files = list(_files(run, parts))
    _check(run.folder, [name for name, _ in files], manifest)
    target = Path(path or f"{run.folder}.tar.gz")
    name = run.config.run
    written = {"README.md": _readme(name, manifest, parts)}
    names = sorted([*(name for name, _ in files), *written])
    written[CRATE] = json.dumps(crate(name, manifest, names, run.folder), indent=1, ensure_ascii=False) + "\n"
    with (
        atomic(target) as temporary,
        open(temporary, "wb") as file,
        # Without the time in gzip's header, equal files give an equal archive.
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", dereference=True) as archive,
    ):
        for member, source in sorted(files):
            archive.add(source, f"{name}/{member}", recursive=False, filter=_anonymous)
        for member, text in written.items():
            data = text.encode()
            entry = tarfile.TarInfo(f"{name}/{member}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return target


def _files(run: FinishedRun, parts: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield the name in the archive and the path of each file; with the hidden records of their origin."""
    for name in ("config.yaml", ".config.yaml.json", "manifest.json"):
        if (run.folder / name).is_file():
            yield name, run.folder / name
    for part in parts:
        for path in sorted((run.folder / part).rglob("*")):
            if path.is_file() and path.suffix not in (".part", ".lock"):
                yield path.relative_to(run.folder).as_posix(), path
    for study in run.config.studies:
        if (path := _CHECKOUT / "config/studies" / f"{study}.yaml").is_file():
            yield f"studies/{study}.yaml", path
    if (lock := _CHECKOUT / "requirements.lock").is_file():
        yield "requirements.lock", lock


def _check(folder: Path, names: Sequence[str], manifest: Mapping[str, Any]) -> None:
    known = manifest["outputs"]
    for name in known:
        if name.split("/")[0] in (*PARTS, "config.yaml") and name not in names:
            raise ShearbenchError(
                f"{folder / name}: it is in the manifest and missing; run make results again"
            )
    for name in names:
        if name in known and file_digest(folder / name) != known[name]["sha256"]:
            raise ShearbenchError(
                f"{folder / name}: it differs from the one in the manifest; run make results again"
            )


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _code(manifest: Mapping[str, Any]) -> str:
    """Return which code made a run, in words."""
    git = manifest["git"]
    if git["commit"] is None:
        return f"version {manifest['shearbench']}, commit not known ({git['reason']})"
    changed = ", with changes that were not committed" if git["dirty"] else ""
    return f"commit {git['commit']}{changed}"


def _readme(run: str, manifest: Mapping[str, Any], parts: Sequence[str]) -> str:
    return f"""# The run {run} of shearbench

Made {manifest["made"]} by shearbench, {_code(manifest)}, with Python {manifest["python"]}.

It has the folders {", ".join(parts)}, the configuration (`config.yaml`), the versions of all packages
(`requirements.lock`) and, in `manifest.json`, the SHA-256 of every file of the run, also of those not here.
`{CRATE}` describes the files for machines (RO-Crate 1.1).

In a checkout of shearbench at this commit, with this folder unpacked beside it:

    python -m shearbench.tools.archive --redraw {run}           # draws all figures again, into {run}/redrawn
    make results CONFIG={run}/config.yaml                       # does the run again

In Python: `import shearbench as sb; sb.load_run("{run}").accuracy`.
"""


def crate(run: str, manifest: Mapping[str, Any], names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return the description of an archive as an RO-Crate (https://w3id.org/ro/crate/1.1).

    Parameters
    ----------
    run : str
        Name of the run.
    manifest : mapping
        The manifest of the run.
    names : sequence of str
        The files of the archive.
    folder : Path
        Folder of the run.

    Returns
    -------
    dict
        JSON-LD: the run is an action, of which shearbench and its packages are the instrument, the
        configuration and the external files the object, and the files of the archive the result.
    """
    made, git = manifest["made"], manifest["git"]
    shown = [name for name in names if not name.split("/")[-1].startswith(".")]
    files = []
    for name in shown:
        entity = {"@id": name, "@type": "File", "name": name, "encodingFormat": _type_of(name)}
        if name in manifest["outputs"]:
            entity["sha256"] = manifest["outputs"][name]["sha256"]
            entity["contentSize"] = str(manifest["outputs"][name]["bytes"])
        files.append(entity)
    packages = [
        {"@id": f"#{name}", "@type": "SoftwareApplication", "name": name, "softwareVersion": version}
        for name, version in manifest["packages"].items()
        if version is not None
    ]
    inputs = [
        {"@id": f"#input-{k}", "@type": "CreativeWork", "name": path, "sha256": entry["sha256"]}
        for k, (path, entry) in enumerate(sorted(manifest["inputs"].items()))
    ]
    results = [name for name in shown if name.split("/")[0] in PARTS]
    graph: list[dict[str, Any]] = [
        {
            "@id": CRATE,
            "@type": "CreativeWork",
            "conformsTo": {"@id": _SPECIFICATION},
            "about": {"@id": "./"},
        },
        {
            "@id": "./",
            "@type": "Dataset",
            "name": f"The run {run} of shearbench",
            "description": "Estimators of weak-lensing shear compared on simulated galaxies: figures, "
            "tables, the numbers behind them, the configuration and the manifest.",
            "datePublished": made,
            "hasPart": [{"@id": one["@id"]} for one in files],
            "mentions": {"@id": "#run"},
        },
        {
            "@id": "#run",
            "@type": "CreateAction",
            "name": f"snakemake, run {run}",
            "endTime": made,
            "instrument": [{"@id": "#shearbench"}, *({"@id": one["@id"]} for one in packages)],
            "object": [{"@id": "config.yaml"}, *({"@id": one["@id"]} for one in inputs)],
            "result": [{"@id": name} for name in results],
        },
        {
            "@id": "#shearbench",
            "@type": "SoftwareApplication",
            "name": "shearbench",
            "softwareVersion": manifest["shearbench"],
            "identifier": git["commit"] or manifest["shearbench"],
            "description": _code(manifest),
            "license": {"@id": _LICENCE},
        },
        {"@id": _LICENCE, "@type": "CreativeWork", "name": "BSD-3-Clause"},
    ]
    return {"@context": f"{_SPECIFICATION}/context", "@graph": [*graph, *files, *packages, *inputs]}


def _type_of(name: str) -> str:
    suffix = Path(name).suffix
    return _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"


def redraw(folder: str | Path, output: str | Path | None = None, names: Sequence[str] = ()) -> list[Path]:
    """Draw the figures of a run again from its metrics.

    Parameters
    ----------
    folder : path-like
        Folder of a run, or an unpacked archive.
    output : path-like, optional
        Folder of the figures; by default ``redrawn`` in that of the run.
    names : sequence of str
        The figures; by default all.

    Returns
    -------
    list of Path
        The figures as PDF; beside each there is one as PNG.
    """
    from shearbench.figures.style import save

    run, target, made = FinishedRun(folder), Path(output or Path(folder, "redrawn")), []
    for name, cases in run.figures.items():
        wanted: list[str | None] = [*cases] or [None]
        for case in wanted if not names or name in names else []:
            path = target / f"{name}{'' if case is None else f'_{case}'}.pdf"
            save(run.figure(name, case), path, path.with_suffix(".png"))
            made.append(path)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Pack a run, or draw its figures again, as the command line says."""
    parser = argparse.ArgumentParser(prog="make archive", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a finished run, or with --redraw of an unpacked archive")
    parser.add_argument("--models", action="store_true", help="with the trained networks")
    parser.add_argument("--stamps", action="store_true", help="with the catalogs and stamps")
    parser.add_argument("--redraw", action="store_true", help="draw the figures from the metrics")
    parser.add_argument("--output", help="the archive, or the folder of the figures")
    given = parser.parse_args(arguments)
    try:
        if given.redraw:
            made = redraw(given.run, given.output)
            print(f"drawn: {len(made)} figures in {made[0].parent if made else given.run}")
        else:
            path = pack(given.run, given.models, given.stamps, given.output)
            print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    except (ShearbenchError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
