"""Write the page of the studies, ``docs/studies.md``, from the tables of a run of all studies.

``python -m shearbench.tools.studies results/studies docs`` copies the tables and figures of a finished run of
``snakemake studies`` into ``docs/measured/studies`` and writes the page from them.
``python -m shearbench.tools.studies docs`` writes the page again from the tables that are there.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from shearbench.config.studies import read_study
from shearbench.evaluation.beliefs import holds, in_words, summary
from shearbench.evaluation.metrics import read_metrics
from shearbench.evaluation.rounding import shown
from shearbench.evaluation.study import verdict
from shearbench.evaluation.study_shear import shear_verdict
from shearbench.figures.catalogue import Entry, entries
from shearbench.paper.manifest import machine
from shearbench.studies import Study

TABLES = "measured/studies"
"""The folder of the tables and figures, in the folder of the page."""
COPIED = ("", "_shear", "_curves", "_cost", "_shifts", "_batches")
"""How the names of the tables that are copied end; those of layers are large, so only their figures are."""
MACHINE = "machine.json"
"""The file, beside the tables, that names the machine of the run.

Its `note` is shown on the page, and its `inside`, if the measurements inside networks are of another run.
`elsewhere` names the machine of each study that was run on another one.
"""


def page(folder: Path, studies: Mapping[str, Study]) -> str:
    """Return the page of the studies.

    Parameters
    ----------
    folder : pathlib.Path
        Has the table of each study, ``<name>.csv``, and `MACHINE`.
    studies : mapping of str to Study
        All studies, by name. Those without a table are named at the end of the page.
    """
    tables = {
        name: read_metrics(folder / f"{name}.csv") for name in studies if (folder / f"{name}.csv").exists()
    }
    effects = summary(tables.values())
    levels = sorted(effects["noise"].unique())
    where = json.loads((folder / MACHINE).read_text(encoding="utf-8"))
    outcomes = {
        name: {level: holds(studies[name], rows[rows["noise"] == level]) for level in levels}
        for name in tables
        for rows in [effects[effects["study"] == name]]
    }
    parts = [_START, _image("studies", "The effect of each value of all studies on the RMSE", 900)]
    parts.append(" ".join(entries()["studies"].caption.split()) + "\n")
    parts.append(_overview(studies, outcomes, levels))
    parts.append(f"{where['inside']}\n" if "inside" in where else "")
    for name, table in tables.items():
        parts.append(_section(studies[name], table, effects[effects["study"] == name], outcomes[name]))
        if name in where.get("elsewhere", {}):
            parts.append(f"Run by itself: {where['elsewhere'][name]}.\n")
        parts += [_biases(studies[name], folder), *_inside(name, folder)]
    parts.append(_budget(tables, where))
    missing = [f"`{name}`" for name in studies if name not in tables]
    if missing:
        parts.append(f"Not run yet: {', '.join(missing)}.\n")
    return "\n".join(filter(None, parts))


_START = """\
# What people say, tested

<!-- Written by `python -m shearbench.tools.studies docs` from measured/studies; do not edit. -->

Each study compares networks that differ in one choice, trained with the same seeds and measured on the same
noisy galaxies. A value helps if it lowers the RMSE of the shape beside the value that it is compared with,
and hurts if it raises it. Noise levels are per pixel, in units of flux: at 1e-5 (S/N 19,000) networks reach
their floor, and surveys measure at about 1e-2 (S/N 20). That a value makes no difference holds only if the
effect is known to be below 10%. Results hold for these simulations, small networks
and short trainings.
"""


def _image(name: str, text: str, width: int = 450) -> str:
    return f'<img src="{TABLES}/{name}.png" width="{width}" alt="{text}">\n'


def _overview(
    studies: Mapping[str, Study], outcomes: Mapping[str, Mapping[float, str]], levels: list[float]
) -> str:
    head = " | ".join(f"at {level:g}" for level in levels)
    lines = [
        "## Does it hold?\n",
        f"| study | what people say | {head} |",
        "|---|---|" + "---|" * len(levels),
    ]
    for name, found in outcomes.items():
        cells = " | ".join(found[level] for level in levels)
        lines.append(f"| [{name}](#{name}) | {_cell(studies[name].belief)} | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(text: str | None) -> str:
    return (text or "--").strip().replace("|", r"\|")


def _section(study: Study, table: pd.DataFrame, effects: pd.DataFrame, outcome: Mapping[float, str]) -> str:
    levels = sorted(effects["noise"].unique())
    head = " | ".join(f"effect at {level:g} | " for level in levels)
    lines = [
        f"## {study.name}\n",
        f"{study.question}\n",
        f"**What people say:** {_cell(study.belief)} ({_cell(study.source)})\n",
        *[f"**At {level:g}:** {outcome[level]}.\n" for level in levels],
        _image(f"study_{study.name}", f"RMSE over the bound for each value of the study {study.name}"),
        f"| value | beside | people expect | {head} |",
        "|---|---|---|" + "---|---|" * len(levels),
    ]
    for label in dict.fromkeys(table["value"]):
        own = effects[effects["value"] == label]
        if own.empty:
            continue
        cells = []
        for level in levels:
            row = own[own["noise"] == level].to_dict("records")[0]
            cells += [_effect(row), _said(row)]
        expected = study.expects.get(label, "")
        lines.append(
            f"| {_cell(label)} | {_cell(own.iloc[0]['reference'])} | {expected} | {' | '.join(cells)} |"
        )
    return "\n".join([*lines, "", f"**Verdict:** {verdict(study, table)}\n"])


def _biases(study: Study, folder: Path) -> str:
    """Return the biases m and c of a study's networks, or nothing if it does not measure them."""
    path = folder / f"{study.name}_shear.csv"
    if not study.shear:
        return ""
    if not path.exists():
        return "**m and c:** not measured yet.\n"
    table = read_metrics(path)
    columns = ("m1", "m2", "c1", "c2")
    lines = [
        f"**m and c:** {shear_verdict(study, table)}\n",
        f"| value | noise | {' | '.join(columns)} |",
        "|---|---|" + "---|" * len(columns),
    ]
    for row in table.to_dict("records"):
        cells = [shown(row[name], row[f"{name}_err"]) if row["n_seeds"] else "" for name in columns]
        lines.append(f"| {_cell(row['value'])} | {row['noise']:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _inside(name: str, folder: Path) -> list[str]:
    """Return the figures of the measurements inside a study's networks, with their captions."""
    return [
        f"{_image(f'{figure}_{name}', f'{figure} of {name}', 900)}\n{' '.join(entry.caption.split())}\n"
        for figure, entry in _figures().items()
        if figure != "study" and (folder / f"{figure}_{name}.png").exists()
    ]


def _figures() -> dict[str, Entry]:
    return {name: entry for name, entry in entries().items() if entry.each == "study"}


def _effect(row: Mapping[object, object]) -> str:
    effect, error = float(str(row["effect"])), float(str(row["effect_err"]))
    return shown(effect, error) if math.isfinite(effect) else ""


def _said(row: Mapping[object, object]) -> str:
    """Return the outcome in words; of a difference that is not seen, with the seeds that would show it."""
    words = in_words({str(name): value for name, value in row.items()})
    needed = float(str(row["seeds_needed"]))
    if str(row["outcome"]).startswith("no difference") and math.isfinite(needed):
        words += f" ({needed:.0f} seeds would separate them)"
    return words


def _budget(tables: Mapping[str, pd.DataFrame], where: Mapping[str, object]) -> str:
    others = where.get("elsewhere", {})
    assert isinstance(others, Mapping)
    lines = [
        "## What it cost\n",
        f"Time of the trainings, each on one core{_gpus(where)} of this machine: {where['cpu']}, "
        f"{where['cores']} cores.{_note(where)}\n",
        "A network of several studies counts in each of them, once in the sum.\n",
        "| study | networks | seeds | minutes of training |",
        "|---|---|---|---|",
    ]
    every = []
    for name, table in tables.items():
        own = table.drop_duplicates("variant")
        if name not in others:
            every.append(own)
        minutes = (own["train_seconds"] * own["n_trained"]).sum() / 60
        place = f" ({others[name]})" if name in others else ""
        lines.append(f"| {name}{place} | {len(own)} | {own['n_trained'].max()} | {minutes:.1f} |")
    once = pd.concat(every).drop_duplicates(["population", "variant"])
    minutes = (once["train_seconds"] * once["n_trained"]).sum() / 60
    lines.append(f"| {'all of this machine' if others else 'all'} | {len(once)} | | {minutes:.1f} |")
    return "\n".join(lines) + "\n\nRedo all with `make studies CONFIG=config/studies.yaml`.\n"


def _note(where: Mapping[str, object]) -> str:
    return f" {where['note']}" if "note" in where else ""


def _gpus(where: Mapping[str, object]) -> str:
    gpus = where["gpus"]
    return f" and a GPU ({', '.join(map(str, gpus))})" if isinstance(gpus, list) and gpus else ""


def all_studies(folder: str = "config/studies") -> dict[str, Study]:
    """Return the studies of a folder, by name."""
    paths = sorted(path for path in Path(folder).glob("*.yaml") if not path.name.startswith("."))
    return {path.stem: read_study(path) for path in paths}


def copy(run: Path, folder: Path, studies: Mapping[str, Study]) -> None:
    """Copy the tables and figures of a finished run, and the name of this machine.

    Parameters
    ----------
    run : pathlib.Path
        Folder of the run.
    folder : pathlib.Path
        Where to put them.
    studies : mapping of str to Study
        The studies that are copied, if the run has them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in studies:
        made = [run / f"metrics/studies/{name}{end}.csv" for end in COPIED]
        made += [run / f"figures/{figure}_{name}.png" for figure in _figures()]
        for path in made:
            if path.exists():
                shutil.copyfile(path, folder / path.name)
    shutil.copyfile(run / "figures/studies.png", folder / "studies.png")
    (folder / MACHINE).write_text(json.dumps(machine(), indent=1) + "\n", encoding="utf-8")


def main(*folders: str) -> None:
    """Write the page; with the folder of a run before that of the page, copy its tables and figures first."""
    *runs, docs = folders
    studies, folder = all_studies(), Path(docs, TABLES)
    for run in runs:
        copy(Path(run), folder, studies)
    Path(docs, "studies.md").write_text(page(folder, studies), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
