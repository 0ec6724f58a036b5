"""Whether the errors that estimators give are right.

An estimator that gives an error with a shape is taken at its word: the true shape is normally distributed
about the estimate, with that standard deviation. All estimators are treated alike, whether the error is the
covariance of a fit, the output of a network or the spread of an ensemble. The tests are those of Gneiting,
Balabdaoui & Raftery 2007, J. R. Stat. Soc. B 69, 243 (sharpness, ranks) and Kuleshov, Fenner & Ermon 2018,
ICML (calibration error).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from shearbench.evaluation.joining import identity, join
from shearbench.evaluation.statistics import RESAMPLES, bootstrapped

_WHO = "trained_on population out_of_distribution noise estimator label kind seed calibration".split()
_BOOTSTRAPPED = "coverage68 coverage95 sharpness sharpness_over_crb z_mean z_std".split()
UNCERTAINTY = [
    *_WHO,
    *"n n_failed n_stated scale".split(),
    *(column for name in _BOOTSTRAPPED for column in (name, f"{name}_err")),
    *"z_width ece ece_expected aleatoric epistemic".split(),
    *"auc auc_err auc_epistemic auc_epistemic_err".split(),
]
CURVES = [*_WHO, *"curve bin x y y_err".split()]
LEVELS = np.linspace(0.05, 0.95, 10)
"""Nominal coverages of the central intervals at which the calibration error is measured."""
ONE_SIGMA = 0.6827
"""Nominal coverage of an interval of one standard deviation to both sides."""
RANKS = 10
"""Bins of the histogram of ranks."""
MOST_BINS = 8
_FEWEST_IN_BIN = 25


@dataclass(frozen=True)
class Stated:
    """Residuals of n galaxies, with the errors that were given with them.

    Attributes
    ----------
    who : dict
        Population, noise, estimator, label, kind and seed.
    residual, error, bound : ndarray, shape (n, 2)
        Estimate minus truth; error that the estimator gives; Cramer-Rao bound.
    aleatoric, epistemic : ndarray, shape (n, 2)
        The parts of the error from the noise of the pixels and from the training; NaN if it is not divided.
    calibrates : ndarray of bool, shape (n,)
        Every second galaxy of the catalog: the errors are scaled with these and judged on the others.
    n, n_failed : int
        Number of all galaxies, and of those that are flagged.
    """

    who: dict[str, Any]
    residual: NDArray[np.float64]
    error: NDArray[np.float64]
    bound: NDArray[np.float64]
    aleatoric: NDArray[np.float64]
    epistemic: NDArray[np.float64]
    calibrates: NDArray[np.bool_]
    n: int
    n_failed: int

    def select(self, chosen: NDArray[np.bool_]) -> Stated:
        """Return a part of the galaxies with errors; the counts stay."""
        parts = {
            name: getattr(self, name)[chosen]
            for name in ("residual", "error", "bound", "aleatoric", "epistemic", "calibrates")
        }
        return replace(self, **parts)

    def scaled(self, factor: float) -> Stated:
        """Return the same with all errors multiplied by a factor."""
        parts = {name: factor * getattr(self, name) for name in ("error", "aleatoric", "epistemic")}
        return replace(self, **parts)

    @property
    def z(self) -> NDArray[np.float64]:
        """Residuals over errors, shape (n, 2)."""
        return self.residual / self.error

    @property
    def scale(self) -> float:
        """The factor with which 68.27% of the residuals of the calibrating galaxies are within the errors."""
        z = np.abs(self.z[self.calibrates])
        return float(np.quantile(z, ONE_SIGMA)) if z.size else np.nan


def stated_errors(
    estimates: pd.DataFrame,
    catalog: pd.DataFrame,
    bounds: pd.DataFrame,
    *,
    label: str | None = None,
    source: str = "estimates",
    rule: str = "measure",
) -> Stated:
    """Return the residuals and errors of the galaxies that an estimator did not flag and gives an error for.

    Parameters
    ----------
    estimates, catalog, bounds : pandas.DataFrame
        Tables of the same galaxies, in any order. Estimates may have the columns ``g1_aleatoric``,
        ``g1_epistemic`` and the same of g2, the two parts of the error.
    label : str, optional
        Label of the estimator in figures; its name by default.
    source, rule : str
        File of the estimates and the rule that makes it, named in errors.

    Raises
    ------
    ContractError
        The tables have different galaxies (see `shearbench.evaluation.joining.join`).
    """
    rows = join(estimates, catalog, bounds, source=source, rule=rule)
    nothing = np.full_like(rows.error, np.nan)
    parts = {
        part: rows.estimates[[f"g1_{part}", f"g2_{part}"]].to_numpy(float)
        if f"g1_{part}" in rows.estimates
        else nothing
        for part in ("aleatoric", "epistemic")
    }
    found = Stated(
        who=identity(estimates, label),
        residual=rows.residual,
        error=rows.error,
        bound=rows.bound,
        calibrates=np.arange(len(rows.good)) % 2 == 1,
        n=len(rows.good),
        n_failed=int((~rows.good).sum()),
        **parts,
    )
    return found.select(rows.good & np.isfinite(rows.error).all(axis=1))


def uncertainty(
    stated: Stated, home: Stated | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of ``metrics/uncertainty.csv`` and ``metrics/uncertainty_curves.csv`` of one estimator.

    Parameters
    ----------
    stated : Stated
    home : Stated, optional
        The same estimator on the population that it was trained on, if that is another one, at the same noise
        level. The errors are scaled with those galaxies, and the galaxies of `stated` are told apart from
        them.
    resamples, seed : int
        Number of resamples of the bootstrap over galaxies, and its random seed.

    Returns
    -------
    rows : list of dict
        The columns `UNCERTAINTY`, one row for each ``calibration``. *none*: errors as the estimator gives
        them, on all galaxies. *scaled*: all errors are multiplied by ``scale``, with which 68.27% of the
        residuals of every second galaxy are smaller than the error; judged on the other galaxies (with
        `home`, the factor is that of `home`, and all galaxies are judged).

        ``n``, ``n_failed``: galaxies, and those that are flagged; ``n_stated``: those judged.
        ``coverage68``, ``coverage95``: fraction of the true components within the central interval of this
        probability. ``sharpness``: root mean square of the errors. ``z_mean, z_std``: mean and standard
        deviation of residual / error; ``z_width``: the 68.27% quantile of its absolute value, which outliers
        do not change. ``ece``: expected calibration error, the mean over `LEVELS` of the difference between
        the fraction covered and the nominal one, without sign; ``ece_expected``: its mean for right errors of
        as many galaxies with independent components. ``aleatoric``, ``epistemic``: root mean square of the
        two parts of the error. ``auc``: the probability that a galaxy of this population has a larger error
        than one of `home` (0.5: they cannot be told apart); ``auc_epistemic``: the same for the epistemic
        part. Components count as one sample, and galaxies are resampled. Numbers that do not exist are NaN.
    curves : list of dict
        The columns `CURVES`. ``curve`` = *coverage*: fraction covered (y) against the nominal one (x).
        *error*: rms residual (y) against rms error (x) of galaxies in bins of their error, equal in number.
        *rank*: density (y) of the rank of the truth in the distribution that the estimator claims (x, 0 to
        1).
    """
    who = {
        "trained_on": (home or stated).who["population"],
        "out_of_distribution": int(home is not None),
        **stated.who,
    }
    rows, curves = [], []
    for calibration in ("none", "scaled"):
        about = {**who, "calibration": calibration}
        factor, judged = 1.0, stated
        if calibration == "scaled":
            factor = (home or stated).scale
            judged = stated.scaled(factor) if home else stated.select(~stated.calibrates).scaled(factor)
        counts = {"n": stated.n, "n_failed": stated.n_failed, "n_stated": len(judged.error)}
        row: dict[str, Any] = {**about, **counts}
        if len(judged.error) and np.isfinite(factor):
            row |= {"scale": factor, **_summary(judged, resamples, seed)}
            if home is not None:
                row |= _told_apart(stated, home)
            curves += [{**about, **point} for point in _curves(judged)]
        rows.append({name: row.get(name, np.nan) for name in UNCERTAINTY})
    return rows, curves


def uncertainty_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `uncertainty` as the table ``metrics/uncertainty.csv``."""
    return pd.DataFrame(list(rows), columns=UNCERTAINTY)


def curves_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return points of `uncertainty` as the table ``metrics/uncertainty_curves.csv``."""
    return pd.DataFrame(list(rows), columns=CURVES)


def _summary(stated: Stated, resamples: int, seed: int) -> dict[str, float]:
    z = stated.z
    covered = np.column_stack([_within(z, level) for level in (ONE_SIGMA, 0.95)])
    moments = np.column_stack([(one**2).mean(axis=1) for one in (stated.error, stated.bound, z)])
    value, error = bootstrapped(
        np.column_stack([covered, moments, z.mean(axis=1)]), _statistics, resamples, seed
    )
    row = dict(zip(_BOOTSTRAPPED, value.tolist())) | {
        f"{name}_err": one for name, one in zip(_BOOTSTRAPPED, error.tolist())
    }
    nominal = np.column_stack([_within(z, level) for level in LEVELS])
    noise = np.sqrt(LEVELS * (1 - LEVELS) / z.size)  # standard errors of the fractions, if errors are right
    return row | {
        "z_width": float(np.quantile(np.abs(z), ONE_SIGMA)),
        "ece": float(np.abs(nominal.mean(axis=0) - LEVELS).mean()),
        # The mean absolute value of a normal deviation is sqrt(2 / pi) of its standard deviation.
        "ece_expected": float(np.sqrt(2 / np.pi) * noise.mean()),
        "aleatoric": float(np.sqrt((stated.aleatoric**2).mean())),
        "epistemic": float(np.sqrt((stated.epistemic**2).mean())),
    }


def _statistics(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the statistics `_BOOTSTRAPPED` from the means of their columns."""
    within, within95, error, bound, square, z = np.moveaxis(means, -1, 0)
    over = np.sqrt(np.divide(error, bound, out=np.full_like(error, np.nan), where=bound > 0))
    spread = np.sqrt(np.maximum(square - z**2, 0))
    return np.stack([within, within95, np.sqrt(error), over, z, spread], axis=-1)


def _within(z: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """Return the fraction of each galaxy's components within the central interval of a nominal coverage."""
    return (np.abs(z) < ndtri((1 + level) / 2)).mean(axis=1)


def _error_of_mean(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard error of the mean of each column; NaN for fewer than two rows."""
    if len(columns) < 2:
        return np.full(columns.shape[1:], np.nan)
    return columns.std(axis=0, ddof=1) / np.sqrt(len(columns))


def _curves(stated: Stated) -> Iterable[dict[str, Any]]:
    """Yield the points of the three curves."""
    z = stated.z
    for i, level in enumerate(LEVELS):
        within = _within(z, level)
        yield _point("coverage", i, level, within.mean(), _error_of_mean(within))
    size, residual = ((one**2).mean(axis=1) for one in (stated.error, stated.residual))
    bins = int(np.clip(len(size) // _FEWEST_IN_BIN, 1, MOST_BINS))
    for i, part in enumerate(np.array_split(np.argsort(size, kind="stable"), bins)):
        rms = np.sqrt(residual[part].mean())
        error = _error_of_mean(residual[part]) / (2 * rms) if rms > 0 else np.nan
        yield _point("error", i, np.sqrt(size[part].mean()), rms, error)
    # The truth is the estimate minus the residual: its rank in the distribution about the estimate.
    rank = np.minimum((RANKS * ndtr(-z)).astype(int), RANKS - 1)
    for i in range(RANKS):
        inside = (rank == i).mean(axis=1) * RANKS
        yield _point("rank", i, (i + 0.5) / RANKS, inside.mean(), _error_of_mean(inside))


def _point(curve: str, i: int, x: float, y: float, error: Any) -> dict[str, Any]:
    return {"curve": curve, "bin": i, "x": float(x), "y": float(y), "y_err": float(error)}


def _told_apart(stated: Stated, home: Stated) -> dict[str, float]:
    """Return how well the errors tell the galaxies from those of the population of the training."""
    row = {}
    for name, of in (("auc", "error"), ("auc_epistemic", "epistemic")):
        here, there = (np.sqrt((getattr(one, of) ** 2).mean(axis=1)) for one in (stated, home))
        row[name], row[f"{name}_err"] = area_under_curve(here, there)
    return row


def area_under_curve(higher: NDArray[np.float64], lower: NDArray[np.float64]) -> tuple[float, float]:
    """Return the area under the ROC curve of a score, and its error.

    Parameters
    ----------
    higher, lower : ndarray, shape (n,) and (m,)
        Score of the objects to be found, and of the others.

    Returns
    -------
    area, error : float
        The area is the probability that an object to be found has the higher score, with ties counted half.
        NaN if a score is not finite or there are fewer than two of either.

    Notes
    -----
    DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44, 837: the error comes from the fractions of the other
    group that each object is above.
    """
    n, m = len(higher), len(lower)
    if min(n, m) < 2 or not (np.isfinite(higher).all() and np.isfinite(lower).all()):
        return np.nan, np.nan
    together = rankdata(np.concatenate([higher, lower]))
    above = (together[:n] - rankdata(higher)) / m
    below = 1 - (together[n:] - rankdata(lower)) / n
    return float(above.mean()), float(np.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m))
