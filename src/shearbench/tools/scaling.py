"""Estimate the core-hours, GPU-hours and disk space of a run from the rates that another run measured.

``python -m shearbench.tools.scaling results/quick docs/scaling.md config/paper.yaml config/large.yaml``
renews the tables of the page ``docs/scaling.md``.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from shearbench.config.reading import load
from shearbench.config.schema import Config
from shearbench.config.studies import plan_studies
from shearbench.evaluation.metrics import read_metrics
from shearbench.plan.run import Run
from shearbench.simulation.populations import PAIRED, SPLITS

_MARK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SHAPE_COLUMNS = 6  # of 8 bytes, in a table of estimates


def rate(
    throughput: pd.DataFrame, stage: str, name: str, population: str, network: bool = False
) -> tuple[float, bool]:
    """Return the measured rate of a stage [stamps/s], and whether it is that of a GPU or of one core.

    Parameters
    ----------
    throughput : pandas.DataFrame
        ``metrics/throughput.csv``.
    stage, name, population : str
        Values of the columns of the table. If the population was not measured, the rate is the lowest of the
        other populations.
    network : bool
        Whether `name` is a network. If this network was not measured, the rate is the lowest of the other
        networks.

    Returns
    -------
    per_second : float
        NaN if no such rate was measured.
    on_gpu : bool
    """
    rows = throughput[throughput["stage"] == stage]
    named = rows[rows["name"] == name]
    if named.empty and network:
        named = rows[rows["kind"] == "network"]
    here = named[named["population"] == population]
    chosen = named if here.empty else here
    if chosen.empty:
        return math.nan, False
    slowest = chosen.sort_values("stamps_per_second").to_dict("records")[0]
    return float(slowest["stamps_per_second"]), bool(slowest.get("gpu_mb", math.nan) > 0)


def needs(config: Config, throughput: pd.DataFrame, studies: str = "config/studies") -> pd.DataFrame:
    """Return the computing time and disk space that each stage of a run needs.

    Parameters
    ----------
    config : Config
    throughput : pandas.DataFrame
        ``metrics/throughput.csv`` of a run of stamps of the same size.
    studies : str
        Folder with the files of the studies.

    Returns
    -------
    pandas.DataFrame
        A row for each stage: ``stage``; ``stamps``, number of stamps, each counted as often as it is
        processed; ``core_hours`` [h]; ``gpu_hours`` [h]; ``disk_gb`` [GB]; ``unknown``, names of estimators
        and networks without a measured rate, whose time is not included.
    """
    rows = []
    measured = functools.cache(functools.partial(rate, throughput))  # the seeds of a network have one
    for stage, tasks in _stages(Run(config, plan_studies(studies, config))).items():
        total = {"stamps": 0.0, "core_hours": 0.0, "gpu_hours": 0.0, "disk_gb": 0.0}
        unknown = set()
        for name, population, stamps, kept_bytes in tasks:
            measured_as = "measure" if stage == "predict" else stage
            network = stage in ("train", "predict")
            per_second, on_gpu = measured(measured_as, name, population, network)
            total["stamps"] += stamps
            total["disk_gb"] += kept_bytes / 1e9
            if math.isnan(per_second):
                unknown.add(name)
            else:
                total["gpu_hours" if on_gpu else "core_hours"] += stamps / per_second / 3600
        rows.append({"stage": stage, **total, "unknown": ", ".join(sorted(unknown))})
    return pd.DataFrame(rows)


def _stages(run: Run) -> dict[str, list[tuple[str, str, int, int]]]:
    """Return (name, population, stamps, bytes kept) of the tasks of each stage."""
    counts = {split: run.stamps_in(split) for split in SPLITS}
    pixels = 4 * run.config.stamps.size_pixels**2
    row = 8 * _SHAPE_COLUMNS
    simulate, bounds, fits = [], [], []
    for population in run.populations:
        for split, n in counts.items():
            images = 1 if run.config.populations[population].constant_psf(split) else 2  # with its PSF
            simulate.append(("galsim", population, n, n * pixels * images))
        bounds.append(("cramer_rao", population, counts["test"], 0))
        for split, levels in run.noise.items():
            for estimator in run.estimators_on(split):
                if run.members(estimator):
                    continue  # its time is that of its members
                n = min(run.stamps_measured(split, estimator) or counts[split], counts[split]) * len(levels)
                fits.append((estimator, population, n, n * row))
    train, predict = [], []
    for name, population, seeds, splits in _networks(run):
        recipe = run.variants[name].training
        shown = recipe.epochs * recipe.shown(counts["train"])
        train.append((name, population, seeds * shown, 0))
        n = seeds * sum(counts[split] * len(run.noise[split]) for split in splits)
        predict.append((name, population, n, n * row))
    return {"simulate": simulate, "bounds": bounds, "measure": fits, "train": train, "predict": predict}


def _networks(run: Run) -> Iterator[tuple[str, str, int, tuple[str, ...]]]:
    """Yield variant, population, number of seeds and splits predicted of all networks of a run."""
    for population in run.populations:
        for name, seeds in run.networks.items():
            yield name, population, len(seeds), ("test", *PAIRED)
    models = {
        (run.studies.known[study].population, name, seed)
        for study in run.config.studies
        for name, seeds in run.study_networks(study).items()
        for seed in seeds
    }
    for population, name, _ in sorted(models - set(run.models)):
        yield name, population, 1, ("test",)


def rates_table(throughput: pd.DataFrame) -> str:
    """Return the measured rates as a Markdown table."""
    lines = ["| stage | population | name | stamps/s | peak memory [MB] |", "|---|---|---|---|---|"]
    for one in throughput.to_dict("records"):
        speed = f"{one['stamps_per_second']:,.0f}" + (" (GPU)" if one.get("gpu_mb", math.nan) > 0 else "")
        what = f"{one['stage']} | `{one['population']}` | {one['name']}"
        lines.append(f"| {what} | {speed} | {one['peak_mb']:,.0f} |")
    return "\n".join(lines) + "\n"


def needs_table(config: Config, throughput: pd.DataFrame) -> str:
    """Return a Markdown table of the computing time and disk space of a run, and the names without a rate."""
    table = needs(config, throughput)
    lines = [
        f"### {config.run}\n",
        "| stage | stamps treated | core-hours | GPU-hours | disk [GB] |",
        "|---|---|---|---|---|",
    ]
    on_gpu = bool(table["gpu_hours"].sum())
    for one in table.to_dict("records"):
        for_gpu = one["stage"] in ("train", "predict")
        gpu = f"{one['gpu_hours']:,.1f}" if on_gpu else "not measured"
        lines.append(
            f"| {one['stage']} | {one['stamps']:,.0f} | {one['core_hours']:,.1f} | {gpu if for_gpu else ''} "
            f"| {one['disk_gb']:,.1f} |"
        )
    total = table[["core_hours", "disk_gb"]].sum()
    lines.append(f"| all | | {total['core_hours']:,.1f} | | {total['disk_gb']:,.1f} |")
    unknown = ", ".join(f"`{name}`" for name in sorted({*", ".join(table["unknown"]).split(", ")} - {""}))
    note = f"\nWithout a measured rate, and not in the hours: {unknown}.\n" if unknown else ""
    return "\n".join(lines) + "\n" + note


def main(run: str, page: str, *configs: str) -> None:
    """Renew the generated tables of a page.

    Parameters
    ----------
    run : str
        Folder of the run whose rates are taken.
    page : str
        A Markdown file with marks ``<!-- generated: rates -->`` and ``<!-- generated: needs -->``.
    *configs : str
        Configurations, each laid over ``config/config.yaml``.
    """
    throughput = read_metrics(Path(run, "metrics/throughput.csv"))
    parts = {
        "rates": rates_table(throughput),
        "needs": "\n".join(needs_table(load("config/config.yaml", one), throughput) for one in configs),
    }
    text = Path(page).read_text(encoding="utf-8")
    Path(page).write_text(
        _MARK.sub(lambda mark: f"{mark[1]}{parts[mark[2]]}{mark[3]}", text), encoding="utf-8"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
