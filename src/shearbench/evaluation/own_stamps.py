"""A user's stamps: the range that networks know, the catalogue, and the shear of the ensemble."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import KDTree

from shearbench.evaluation.statistics import bootstrap_means
from shearbench.files.writing import atomic

NEIGHBOURS = 5
"""The distance of a galaxy is that to the simulated galaxy of this rank."""
INSIDE = 0.99
"""Fraction of the simulated galaxies whose own distance is below the threshold."""
_SPACE = {"snr": True, "flux": True, "size": True, "psf_fwhm": True, "psf_g1": False, "psf_g2": False}
# Least units of the properties: where the population has one PSF only, that of the data may differ by this.
_LEAST = {"psf_fwhm": 0.02, "psf_g1": 0.01, "psf_g2": 0.01}

SHEAR = (
    "observation estimator label kind seed n n_flagged n_out_of_range g1 g1_err g2 g2_err "
    "shear1 shear1_err shear2 shear2_err calibration"
).split()
"""Columns of the table of `ensemble_shear`."""


def distances(data: pd.DataFrame, simulated: pd.DataFrame) -> NDArray[np.float64]:
    """Return how far galaxies are from those of a population, in units of the threshold.

    The distance is that to the `NEIGHBOURS`-th simulated galaxy in the logarithms of signal-to-noise ratio,
    flux, size and PSF width and the two components of the PSF's shape, each in units of its standard
    deviation in the population. The threshold is the quantile `INSIDE` of the distances of simulated
    galaxies from each other.

    Parameters
    ----------
    data, simulated : pandas.DataFrame
        Columns ``snr, flux, size, psf_fwhm, psf_g1, psf_g2``.

    Returns
    -------
    ndarray of float64, shape (n,)
        Galaxies above 1 are outside the range of the population; NaN where a property is missing or there are
        too few simulated galaxies.
    """
    theirs, ours = _coordinates(simulated), _coordinates(data)
    theirs = theirs[np.isfinite(theirs).all(axis=1)]
    found = np.full(len(ours), np.nan)
    good = np.isfinite(ours).all(axis=1)
    if len(theirs) < 2 * NEIGHBOURS or not good.any():
        return found
    spread = np.maximum(theirs.std(axis=0), [_LEAST.get(name, 1e-3) for name in _SPACE])
    tree = KDTree(theirs / spread)
    # A simulated galaxy is its own nearest neighbour.
    own = tree.query(theirs / spread, [NEIGHBOURS + 1])[0][:, 0]
    found[good] = tree.query(ours[good] / spread, [NEIGHBOURS])[0][:, 0] / np.quantile(own, INSIDE)
    return found


def _coordinates(table: pd.DataFrame) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = [np.log(table[name]) if log else table[name] for name, log in _SPACE.items()]
    return np.column_stack([np.asarray(column, float) for column in columns])


def flagged_range(
    properties: pd.DataFrame, simulated: pd.DataFrame, noise: tuple[float, float]
) -> pd.DataFrame:
    """Add the columns ``distance`` and ``out_of_range`` to the properties of a user's galaxies.

    Parameters
    ----------
    properties, simulated : pandas.DataFrame
        Properties of the user's and of simulated galaxies.
    noise : (float, float)
        Lowest and highest noise level of the training.

    Returns
    -------
    pandas.DataFrame
        ``distance`` from `distances`; ``out_of_range`` is true where it is above 1 or unknown, or where the
        noise is outside the range of the training.
    """
    distance = distances(properties, simulated)
    sigma = properties["sigma"].to_numpy(float)
    quiet = (sigma >= noise[0] * (1 - 1e-6)) & (sigma <= noise[1] * (1 + 1e-6))
    return properties.assign(distance=distance, out_of_range=~((distance <= 1) & quiet))


@dataclass(frozen=True)
class Measured:
    """The estimates of a user's galaxies by an estimator or a network.

    Attributes
    ----------
    column : str
        Beginning of the names of its columns in the catalogue.
    estimator, label, kind : str
    seed : int
        Of a network's training; -1 for other estimators.
    table : pandas.DataFrame
        ``g1, g2, g1_err, g2_err, flag`` and others, a row for each galaxy.
    """

    column: str
    estimator: str
    label: str
    kind: str
    seed: int
    table: pd.DataFrame


def results_of(
    observation: str,
    population: str,
    galaxies: pd.DataFrame,
    simulated: pd.DataFrame,
    noise: tuple[float, float],
    measured: Sequence[Measured],
    shear_bias: pd.DataFrame | None,
    resamples: int,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the tables of a user's galaxies.

    Parameters
    ----------
    observation, population : str
        Name of the galaxies, and of the population of the networks.
    galaxies, simulated : pandas.DataFrame
        Properties of the user's galaxies, with a text column ``cause``, and of simulated ones.
    noise : (float, float)
        Lowest and highest noise level of the training.
    measured : sequence of Measured
    shear_bias : pandas.DataFrame or None
        ``metrics/shear_bias.csv``.
    resamples : int
        Number of resamples of the bootstrap.

    Returns
    -------
    catalogue : pandas.DataFrame
        See `catalogue`.
    shapes : pandas.DataFrame
        A row for each galaxy and estimator: ``row, estimator, label, kind, seed, g1, g2, g1_err, g2_err,
        flag``.
    shear : pandas.DataFrame
        A row for each estimator, with the columns `SHEAR`.
    """
    galaxies = flagged_range(galaxies, simulated, noise)
    shapes, shear = [], []
    for one in measured:
        who = {"estimator": one.estimator, "label": one.label, "kind": one.kind, "seed": one.seed}
        columns = one.table[["g1", "g2", "g1_err", "g2_err", "flag"]]
        shapes.append(pd.DataFrame({"row": galaxies["row"], **who}).join(columns))
        about = {**who, "population": population}
        shear.append(ensemble_shear(observation, about, one.table, galaxies, shear_bias, resamples))
    return (
        catalogue(galaxies, {one.column: one.table for one in measured}),
        pd.concat(shapes, ignore_index=True),
        pd.DataFrame(shear, columns=list(SHEAR)),
    )


def observed_tables(
    observations: Mapping[str, tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]],
) -> dict[str, pd.DataFrame]:
    """Return the tables from which the figure of users' stamps is drawn.

    Parameters
    ----------
    observations : mapping
        For the name of each observation, its catalogue, simulated galaxies, shapes and shear.

    Returns
    -------
    dict of str to pandas.DataFrame
        ``galaxies``: properties, with ``source`` (data or simulated); ``shapes`` and ``shear``: as from
        `results_of`. All have a column ``observation``.
    """
    galaxies, shapes, shear = [], [], []
    for name, (catalog, simulated, of_galaxies, of_ensemble) in observations.items():
        own = catalog[["row", "stamp_flag", "distance", "out_of_range", *simulated]]
        galaxies.append(own.assign(observation=name, source="data"))
        galaxies.append(simulated.assign(observation=name, source="simulated", out_of_range=False))
        shapes.append(of_galaxies.assign(observation=name))
        shear.append(of_ensemble.assign(observation=name))
    tables = {"galaxies": galaxies, "shapes": shapes, "shear": shear}
    return {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}


def catalogue(properties: pd.DataFrame, estimates: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the catalogue of a user's galaxies: one row each, and columns of each estimator.

    Parameters
    ----------
    properties : pandas.DataFrame
        From `flagged_range`, with a text column ``cause``.
    estimates : mapping of str to pandas.DataFrame
        Estimates by the beginning of the names of their columns.

    Returns
    -------
    pandas.DataFrame
        The properties, then for each estimator ``<name>_g1``, ``_g2``, ``_g1_err``, ``_g2_err``, ``_flag``,
        ``_s2n`` (the estimator's own, or flux over error; NaN if it gives neither) and, of an estimator of
        ensembles of galaxies, its responses ``_R11`` to ``_R22``; of a mean of several networks, the parts of
        its errors, ``_g1_aleatoric`` to ``_g2_epistemic``.
    """
    wanted = ["g1", "g2", "g1_err", "g2_err", "flag", "s2n", "R11", "R12", "R21", "R22"]
    wanted += [f"{name}_{part}" for part in ("aleatoric", "epistemic") for name in ("g1", "g2")]
    columns: dict[str, Any] = {str(name): values for name, values in properties.items()}
    for name, table in estimates.items():
        own = table.copy(deep=False)
        if "s2n" not in own and {"flux", "flux_err"} <= set(own):
            own["s2n"] = own["flux"] / own["flux_err"]
        for column in wanted:
            if column in own:
                columns[f"{name}_{column}"] = own[column].to_numpy()
            elif column == "s2n":
                columns[f"{name}_{column}"] = np.full(len(own), np.nan)
    return pd.DataFrame(columns)


def write_fits(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table as a binary FITS table, whole or not at all."""
    from astropy.io import fits

    columns = []
    for name, values in table.items():
        array = values.to_numpy()
        if array.dtype == bool:
            form = "L"
        elif array.dtype.kind in "iu":
            form, array = "K", array.astype(np.int64)
        elif array.dtype.kind == "f":
            form, array = "D", array.astype(np.float64)
        else:
            array = array.astype(str).astype(bytes)
            form = f"{max(array.dtype.itemsize, 1)}A"
        columns.append(fits.Column(name=str(name), format=form, array=array))
    with atomic(path) as temporary:
        fits.BinTableHDU.from_columns(columns, name="SHAPES").writeto(temporary, overwrite=True)


def ensemble_shear(
    observation: str,
    who: Mapping[str, Any],
    estimates: pd.DataFrame,
    properties: pd.DataFrame,
    shear_bias: pd.DataFrame | None,
    resamples: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the mean shape of a user's galaxies by one estimator, and the shear that it means.

    Parameters
    ----------
    observation : str
    who : mapping
        ``estimator, label, kind, seed`` and ``population``, whose calibration is used.
    estimates : pandas.DataFrame
        All galaxies that the estimator does not flag are averaged.
    properties : pandas.DataFrame
        From `flagged_range`, of the same rows.
    shear_bias : pandas.DataFrame or None
        The table ``metrics/shear_bias.csv`` of the run.
    resamples, seed : int
        Number of resamples of the bootstrap over galaxies, and its random seed.

    Returns
    -------
    dict
        Columns `SHEAR`. ``g1, g2`` are mean shapes. ``shear1, shear2`` are (g - c) / (1 + m), with m and c of
        the population interpolated to the median noise in log(noise); the errors contain those of m and c.
        They are NaN if the noise is not between noise levels at which m was measured; ``calibration`` says
        why. An estimator with responses of its own gives its mean shape over its mean response.
    """
    good = estimates["flag"].to_numpy() == 0
    row: dict[str, Any] = {
        "observation": observation,
        **{name: who[name] for name in ("estimator", "label", "kind", "seed")},
        "n": int(good.sum()),
        "n_flagged": int((~good).sum()),
        "n_out_of_range": int(properties["out_of_range"].to_numpy()[good].sum()),
    }
    empty = dict.fromkeys(SHEAR[8:-1], np.nan)
    if good.sum() < 2:
        return row | empty | {"calibration": "none: fewer than two galaxies are measured"}
    g = estimates.loc[good, ["g1", "g2"]].to_numpy(float)
    mean, error = g.mean(axis=0), g.std(axis=0, ddof=1) / np.sqrt(len(g))
    row |= {"g1": mean[0], "g1_err": error[0], "g2": mean[1], "g2_err": error[1]}
    shear: NDArray[Any]
    if "R11" in estimates:
        names = ["R11", "R12", "R21", "R22"]
        columns = np.column_stack([g, *(_column(estimates, name)[good] for name in names)])
        drawn = _own_shear(bootstrap_means(columns, resamples, seed)).std(axis=0, ddof=1)
        shear, how = _own_shear(columns.mean(axis=0)), "its own response"
    else:
        found, how = _calibration(shear_bias, who, float(np.median(properties["sigma"].to_numpy()[good])))
        if found is None:
            return empty | row | {"calibration": how}
        m, m_err, c, c_err = found
        shear = (mean - c) / (1 + m)
        drawn = np.asarray(np.sqrt(error**2 + c_err**2 + (shear * m_err) ** 2) / np.abs(1 + m))
    row |= {"shear1": shear[0], "shear1_err": drawn[0], "shear2": shear[1], "shear2_err": drawn[1]}
    return row | {"calibration": how}


def _column(table: pd.DataFrame, name: str) -> NDArray[np.float64]:
    return table[name].to_numpy(float) if name in table else np.zeros(len(table))


def _own_shear(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return R^-1 e of mean e1, e2, R11, R12, R21, R22 in the last axis."""
    response = means[..., 2:].reshape(*means.shape[:-1], 2, 2)
    return np.asarray(np.linalg.solve(response, means[..., :2, None])[..., 0], float)


def _calibration(
    shear_bias: pd.DataFrame | None, who: Mapping[str, Any], sigma: float
) -> tuple[tuple[NDArray[np.float64], ...] | None, str]:
    """Return m, its error, c and its error of both components at a noise level, and words about them."""
    if shear_bias is None:
        return None, "none: the run has no metrics/shear_bias.csv"
    same = (shear_bias["calibration"] == "none") & (shear_bias["seed"] == who["seed"])
    for name in ("population", "estimator"):
        same &= shear_bias[name] == who[name]
    rows = shear_bias[same & shear_bias[["m1", "m2", "m1_err", "m2_err"]].notna().all(axis=1)]
    rows = rows.sort_values("noise")
    if rows.empty:
        return None, f"none: m was not measured on {who['population']}"
    levels = rows["noise"].to_numpy(float)
    if not levels[0] / 1.01 <= sigma <= levels[-1] * 1.01:
        known = " to ".join(f"{level:g}" for level in dict.fromkeys((levels[0], levels[-1])))
        return None, f"none: the noise is {sigma:.3g}, and m was measured at {known}"
    found = [
        np.array([np.interp(np.log(sigma), np.log(levels), rows[f"{name}{i}{end}"]) for i in (1, 2)])
        for name, end in (("m", ""), ("m", "_err"), ("c", ""), ("c", "_err"))
    ]
    return tuple(found), f"m and c of {who['population']} at noise {sigma:.3g}"
