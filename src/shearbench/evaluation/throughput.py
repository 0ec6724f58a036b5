"""Speed, time and memory of each stage, and the histories of the trainings."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from shearbench.errors import ContractError

THROUGHPUT = (
    "population stage name label kind stamps seconds stamps_per_second cores peak_mb gpu_mb gpu_percent"
).split()
TRAINING = (
    "population variant seed epoch views seconds learning_rate train_loss gradient_norm validation_loss"
    " validation_rmse"
).split()


def read_benchmark(path: str | os.PathLike[str], rule: str | None = None) -> dict[str, float]:
    """Return wall time and peak memory from a benchmark file of Snakemake.

    Parameters
    ----------
    path : path-like
        Tab-separated, with the columns ``s`` and ``max_rss`` [MB]. Of several rows (repeats), the mean time
        and the highest peak are returned.
    rule : str, optional
        Rule of the job, named in errors.

    Returns
    -------
    dict
        ``seconds`` and ``peak_mb``, which is NaN for a job too short for Snakemake to sample its memory.

    Raises
    ------
    ContractError
        The file does not have these columns.
    """
    try:
        table = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
        seconds = float(pd.to_numeric(table["s"]).mean())
        peak = float(pd.to_numeric(table["max_rss"]).max())
    except (OSError, ValueError, KeyError, pd.errors.ParserError) as error:
        raise ContractError.of(
            path, "columns s, max_rss", repr(error), "a benchmark of Snakemake", rule
        ) from error
    return {"seconds": seconds, "peak_mb": peak}


def read_gpu_use(path: str | os.PathLike[str]) -> dict[str, float]:
    """Return ``gpu_mb`` and ``gpu_percent`` from a file of `shearbench.jobs.gpu_use`; NaN without a file."""
    if not os.path.exists(path):
        return {"gpu_mb": math.nan, "gpu_percent": math.nan}
    (row,) = pd.read_csv(path).to_dict("records")
    return {"gpu_mb": float(row["gpu_mb"]), "gpu_percent": float(row["gpu_percent"])}


def throughput(
    population: str,
    stage: str,
    name: str,
    *,
    stamps: int,
    seconds: float,
    kind: str,
    label: str | None = None,
    cores: int = 1,
    peak_mb: float = math.nan,
    gpu_mb: float = math.nan,
    gpu_percent: float = math.nan,
) -> dict[str, Any]:
    """Return a row of ``metrics/throughput.csv``.

    Parameters
    ----------
    population, stage, name, kind : str
        Population; stage (simulate, train, measure or bounds); estimator, network or program, and its kind.
    stamps : int
        Number of processed stamps; in training, a stamp is counted each time it is seen.
    seconds : float
        Wall time.
    label : str, optional
        Label in tables; `name` by default.
    cores : int
        Number of cores used.
    peak_mb : float
        Peak memory [MB]; NaN if not measured.
    gpu_mb, gpu_percent : float
        Peak memory [MB] and mean utilisation [percent] of the GPU; NaN without a GPU.

    Returns
    -------
    dict
        The columns `THROUGHPUT`.
    """
    return {
        "population": population,
        "stage": stage,
        "name": name,
        "label": label or name,
        "kind": kind,
        "stamps": int(stamps),
        "seconds": float(seconds),
        "stamps_per_second": stamps / seconds if seconds > 0 else math.nan,
        "cores": int(cores),
        "peak_mb": float(peak_mb),
        "gpu_mb": float(gpu_mb),
        "gpu_percent": float(gpu_percent),
    }


def measurement_throughput(
    attributes: Iterable[Mapping[str, Any]],
    labels: Mapping[str, str] | None = None,
    jobs: Iterable[Mapping[str, float]] | None = None,
    cores: int = 1,
) -> list[dict[str, Any]]:
    """Return one row of stage ``measure`` for each population and estimator.

    Parameters
    ----------
    attributes : iterable of mapping
        Attributes of the estimates files. All noise levels, splits and seeds of an estimator are added.
    labels : mapping, optional
        Label of each estimator.
    jobs : iterable of mapping, optional
        ``peak_mb, gpu_mb, gpu_percent`` of the job that made each file, in the same order. The largest value
        of each is returned.
    cores : int
        Number of cores of each measurement.

    Returns
    -------
    list of dict
    """
    attributes = list(attributes)
    made_by = list(jobs) if jobs is not None else [{}] * len(attributes)
    if len(made_by) != len(attributes):
        raise ValueError(f"{len(made_by)} jobs for {len(attributes)} estimates")
    groups: dict[tuple[str, str], list[tuple[Mapping[str, Any], Mapping[str, float]]]] = {}
    for attrs, job in zip(attributes, made_by):
        groups.setdefault((attrs["population"], attrs["estimator"]), []).append((attrs, job))
    return [
        throughput(
            population,
            "measure",
            name,
            stamps=sum(int(attrs["n"]) for attrs, _ in members),
            seconds=sum(float(attrs["seconds"]) for attrs, _ in members),
            kind=members[0][0]["kind"],
            label=(labels or {}).get(name),
            cores=cores,
            **{
                key: max(
                    (job[key] for _, job in members if not math.isnan(job.get(key, math.nan))),
                    default=math.nan,
                )
                for key in ("peak_mb", "gpu_mb", "gpu_percent")
            },
        )
        for (population, name), members in groups.items()
    ]


def throughput_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as the table ``metrics/throughput.csv``."""
    return pd.DataFrame(list(rows), columns=THROUGHPUT)


def training_table(histories: Iterable[tuple[str, str, int, pd.DataFrame]]) -> pd.DataFrame:
    """Return the histories of all trainings as the table ``metrics/training.csv``.

    Parameters
    ----------
    histories : iterable of (population, variant, seed, history)
        ``history`` has one row per epoch and the columns of `TRAINING` from ``epoch`` on; others are ignored.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    ContractError
        A history lacks a column.
    """
    tables = []
    for population, variant, seed, history in histories:
        missing = [name for name in TRAINING[3:] if name not in history]
        if missing:
            source = f"history of {variant}, seed {seed}, on {population}"
            raise ContractError.of(
                source, f"column '{missing[0]}'", f"only {list(history)}", "the column", "train"
            )
        table = history[TRAINING[3:]].assign(population=population, variant=variant, seed=seed)
        tables.append(table[TRAINING])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=TRAINING)
