"""Collect speed, time and memory of each stage, and the histories of all trainings."""

import math
from pathlib import Path

from shearbench.evaluation.metrics import read_metrics
from shearbench.evaluation.throughput import (
    measurement_throughput,
    read_benchmark,
    read_gpu_use,
    throughput,
    throughput_table,
    training_table,
)
from shearbench.files.tables import read_table
from shearbench.files.text import write_csv
from shearbench.jobs.job import logged


def job(*parts: str) -> dict[str, float]:
    """Return time, peak memory and GPU use of a job; NaN if it has no benchmark file."""
    *folders, name = parts
    path = Path(snakemake.params.benchmarks, *folders, f"{name}.tsv")
    times = read_benchmark(path, folders[0]) if path.exists() else {"seconds": math.nan, "peak_mb": math.nan}
    return times | read_gpu_use(path.with_name(f"{name}.gpu.csv"))


with logged(snakemake.log[0]):
    origins = snakemake.params.origins
    rows = []
    for population in snakemake.params.populations:
        chunks = snakemake.params.chunks
        drawn = [job("simulate_stamps", population, "test", f"{k}") for k in range(len(chunks))]
        rows.append(
            throughput(
                population,
                "simulate",
                "galsim",
                stamps=chunks[-1][1],
                seconds=sum(one["seconds"] for one in drawn),
                peak_mb=max(one["peak_mb"] for one in drawn),
                kind="simulation",
                label="GalSim",
            )
        )
        bound = job("cramer_rao", population, "test")
        rows.append(
            throughput(
                population,
                "bounds",
                "cramer_rao",
                stamps=chunks[-1][1],
                kind="bound",
                label="Cramer-Rao bound",
                **bound,
            )
        )
    histories = []
    for (population, variant, seed), path in zip(snakemake.params.models, snakemake.input.histories):
        history = read_metrics(path, origins[path])
        made_by = job("train", population, variant, f"seed{seed}")
        histories.append((population, variant, seed, history))
        rows.append(
            throughput(
                population,
                "train",
                variant,
                stamps=int(history["views"].iloc[-1]),
                seconds=float(history["seconds"].iloc[-1]),
                kind="network",
                **{key: made_by[key] for key in ("peak_mb", "gpu_mb", "gpu_percent")},
            )
        )
    attributes, jobs = [], []
    for path in snakemake.input.estimates:
        attributes.append(read_table(path, (), "measure", rows=False, expected=origins[path]).attrs)
        population, split, noise = Path(path).parts[-4:-1]
        # A job of `measure` has one noise level; a job of `predict` has all of them, for all seeds.
        network = attributes[-1]["seed"] is not None
        rule = "measure" if split == "test" else "measure_shear"
        made_by = ["predict", population] if network else [rule, population, noise]
        jobs.append(job(*made_by, attributes[-1]["estimator"]))
    rows += measurement_throughput(attributes, snakemake.params.labels, jobs)
    write_csv(snakemake.output.throughput, throughput_table(rows), origins[snakemake.output.throughput])
    write_csv(snakemake.output.training, training_table(histories), origins[snakemake.output.training])
