"""Measure a user's stamps with the networks and estimators of a finished run; nothing is trained.

``python -m shearbench.tools.measure my.h5 --run results/quick`` (``make measure STAMPS=my.h5``); see
docs/own-data.md.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from shearbench.api.runs import FinishedRun
from shearbench.config.studies import Studies
from shearbench.data.own_stamps import OwnStamps, in_words
from shearbench.data.stamps import read_stamps
from shearbench.errors import ConfigError, ShearbenchError
from shearbench.estimators import make_estimator
from shearbench.evaluation.metrics import read_metrics
from shearbench.evaluation.own_stamps import Measured, observed_tables, results_of, write_fits
from shearbench.figures.observations import draw
from shearbench.figures.style import save
from shearbench.files.tables import write_table
from shearbench.files.text import write_csv
from shearbench.measurement.ensemble import combined
from shearbench.measurement.own_stamps import (
    geometry_of,
    measure_own,
    noise_range,
    own_properties,
    predict_own,
    simulated_properties,
)
from shearbench.plan.run import Run, unavailable
from shearbench.tasks.shear.model_file import TrainedNetwork, load_model
from shearbench.tasks.shear.packed import load_packed

_RESAMPLES = 400


@dataclass(frozen=True)
class _Known:
    """The estimators and networks that measure, and the galaxies and calibration that they know."""

    population: str
    measured: list[Measured]
    simulated: pd.DataFrame
    noise: tuple[float, float]
    shear_bias: pd.DataFrame | None


def measure(
    stamps: OwnStamps,
    run: str | Path | None = None,
    networks: Sequence[str | Path] = (),
    population: str | None = None,
    resize: bool = False,
    name: str = "mine",
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Measure a user's stamps.

    Parameters
    ----------
    stamps : OwnStamps
    run : path-like, optional
        Folder of a finished run, whose estimators and networks measure.
    networks : sequence of path-like
        Files of ``snakemake networks``, which measure instead of those of a run.
    population : str, optional
        Population of the networks of the run; by default its only one.
    resize : bool
        Whether stamps of another size are cut or padded for networks.
    name : str
        Name of the stamps in the tables.

    Returns
    -------
    tables : dict of str to pandas.DataFrame
        See `shearbench.evaluation.own_stamps.observed_tables`.
    catalogue : pandas.DataFrame

    Raises
    ------
    ShearbenchError
        The run is not finished, or lacks the population; or the files of networks do not belong together.
    """
    known = (
        _by_files(stamps, networks, resize)
        if networks
        else _by_run(stamps, Path(run or ""), population, resize)
    )
    galaxies = own_properties(stamps)
    galaxies["cause"] = list(map(in_words, galaxies["stamp_flag"]))
    catalogue, shapes, shear = results_of(
        name,
        known.population,
        galaxies,
        known.simulated,
        known.noise,
        known.measured,
        known.shear_bias,
        _RESAMPLES,
    )
    return observed_tables({name: (catalogue, known.simulated, shapes, shear)}), catalogue


def _by_files(stamps: OwnStamps, paths: Sequence[str | Path], resize: bool) -> _Known:
    packed = [load_packed(path) for path in paths]
    abouts = [model.about for model, _, _ in packed]
    populations = list(dict.fromkeys(about["population"] for about in abouts))
    if len(populations) > 1:
        raise ShearbenchError(
            f"the networks are of several populations ({', '.join(populations)}); measure with those of one"
        )
    several = len({about["variant"] for about in abouts}) < len(abouts)
    measured = [_by_network(stamps, model, resize, several) for model, _, _ in packed]
    return _Known(
        populations[0],
        measured,
        packed[0][1],
        (max(about["noise"][0] for about in abouts), min(about["noise"][1] for about in abouts)),
        pd.concat([bias for _, _, bias in packed], ignore_index=True),
    )


def _by_run(stamps: OwnStamps, folder: Path, population: str | None, resize: bool) -> _Known:
    elsewhere = (
        "Nothing is trained here: finish the run (make results), give RUN=<folder of a finished run>, or "
        "NETWORK=<a file of snakemake networks>"
    )
    try:
        finished = FinishedRun(folder)
    except ConfigError:
        raise
    except ShearbenchError as error:
        raise ShearbenchError(f"{error}. {elsewhere}") from None
    config, here = finished.config, finished.path
    left_out = unavailable(config)
    run = Run(config, Studies({}, {}, {}, {}), left_out)
    population = population or (run.populations[0] if len(run.populations) == 1 else None)
    if population not in run.populations:
        raise ShearbenchError(
            f"{folder}: population: found {population or 'none'}, expected one of "
            f"{', '.join(run.populations)} (POPULATION=...)"
        )

    paths = {
        (variant, seed): here(run.model_of(population, variant, seed))
        for of, variant, seed in run.models
        if of == population
    }
    calibrated = {name: here(run.calibration_of(population, name)) for name in run.calibrated}
    files = [*paths.values(), *calibrated.values()]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise ShearbenchError(
            f"{folder}: {len(missing)} of {len(files)} trained networks are missing, the first is "
            f"{missing[0]}. {elsewhere}"
        )
    index = here(run.stamps_of("test", population))
    if not index.is_file():
        raise ShearbenchError(f"{folder}: the simulated galaxies are missing, {index}. {elsewhere}")
    models: dict[tuple[str, int], TrainedNetwork] = {
        (variant, seed): load_model(path, variant, population, seed)
        for (variant, seed), path in paths.items()
    }
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}")
    measured = []
    # Ensembles come last: they need the estimates of their members.
    for column, (_, name, seed) in sorted(run.measurers.items(), key=lambda item: item[1][1] in run.combined):
        if seed is not None:
            several = len(run.networks[name]) > 1
            measured.append(_by_network(stamps, models[name, seed], resize, several))
            continue
        network, options, geometry = run.network_inside(name), config.estimators[name], None
        if members := run.members(name):
            by_network = {(one.estimator, one.seed): one.table for one in measured}
            table = combined([by_network[member] for member in members])
            _said(run.labels[name], table)
            measured.append(Measured(column, name, run.labels[name], options["kind"], -1, table))
            continue
        if network:
            options = {**options, "network_file": str(calibrated.get(name, paths[network]))}
            geometry = geometry_of(models[network])
        table = measure_own(make_estimator(options), stamps, geometry, resize)
        _said(run.labels[name], table)
        measured.append(Measured(column, name, run.labels[name], options["kind"], -1, table))
    ranges = [noise_range(model) for model in models.values()] or [run.noise_range]
    noise = max(low for low, _ in ranges), min(high for _, high in ranges)
    bias = folder / "metrics/shear_bias.csv"
    return _Known(
        population,
        measured,
        simulated_properties(read_stamps(index), noise, config.seed),
        noise,
        read_metrics(bias) if bias.is_file() else None,
    )


def _by_network(stamps: OwnStamps, model: TrainedNetwork, resize: bool, several: bool) -> Measured:
    variant, seed = model.about["variant"], model.about["seed"]
    table = predict_own(model, stamps, resize)
    _said(variant, table)
    column = f"{variant}_seed{seed}" if several else variant
    return Measured(column.replace("-", "_"), variant, variant, "network", seed, table)


def _said(label: str, table: pd.DataFrame) -> None:
    print(f"{label}: {int((table['flag'] == 0).sum())} of {len(table)} stamps measured", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure stamps as the command line says; write a catalogue, the shear and a figure."""
    parser = argparse.ArgumentParser(prog="make measure", description=__doc__.splitlines()[0])
    parser.add_argument("stamps", help="file of the stamps: HDF5, FITS or MEDS")
    parser.add_argument("--run", default="results/quick", help="folder of a finished run")
    parser.add_argument("--network", action="append", default=[], help="file of snakemake networks")
    parser.add_argument("--population", help="population of the networks, in a run with several")
    parser.add_argument("--psf", help="file of the PSF, if the stamps have none")
    parser.add_argument("--sigma", help="noise per pixel, or the name of its array")
    parser.add_argument("--scale", type=float, help="pixel scale [arcsec]")
    parser.add_argument("--flux-scale", type=float, default=1.0, help="factor on images and noise")
    parser.add_argument("--resize", action="store_true", help="cut or pad stamps for networks")
    parser.add_argument("--output", help="folder of the results; measured/ in that of the run by default")
    given = parser.parse_args(arguments)
    if not given.stamps:
        sys.exit("error: give the file of your stamps: make measure STAMPS=my.h5 (docs/own-data.md)")
    sigma: float | str | None = given.sigma
    with contextlib.suppress(ValueError, TypeError):  # the name of an array, or nothing
        sigma = float(given.sigma)
    try:
        stamps = OwnStamps(given.stamps, given.psf, sigma, given.scale, given.flux_scale)
        for words, number in stamps.causes().items():
            print(f"{number} of {len(stamps)} stamps are not measured: {words}")
        name = Path(given.stamps).stem
        tables, catalogue = measure(stamps, given.run, given.network, given.population, given.resize, name)
        folder = Path(given.output or ("measured" if given.network else Path(given.run, "measured")))
        write_table(folder / f"{name}.parquet", catalogue)
        write_fits(folder / f"{name}.fits", catalogue)
        write_csv(folder / f"{name}_shear.csv", tables["shear"])
        figure = draw(tables["galaxies"], tables["shapes"], tables["shear"], name)
        save(figure, folder / f"{name}.pdf", folder / f"{name}.png")
    except (ShearbenchError, OSError) as error:
        sys.exit(f"error: {error}")
    out = int(catalogue["out_of_range"].sum())
    print(f"{out} of {len(catalogue)} galaxies are outside the range that the networks know, or not measured")
    shear = tables["shear"]
    for row in shear.to_dict("records"):
        values = "  ".join(f"{row[f'shear{i}']:+.5f} +- {row[f'shear{i}_err']:.5f}" for i in (1, 2))
        print(f"{row['label']:30.30s} shear {values}  ({row['calibration']})")
    print(f"written: {folder}/{name}.parquet, .fits, _shear.csv, .pdf, .png")


if __name__ == "__main__":
    main()
