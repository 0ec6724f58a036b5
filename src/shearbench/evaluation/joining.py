"""Tables of estimates, true shapes and bounds, joined galaxy by galaxy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.errors import ContractError

_ESTIMATES = ("galaxy_id", "g1", "g2", "g1_err", "g2_err", "flag")
_ATTRIBUTES = ("estimator", "kind", "population", "split", "sigma", "seed", "seconds", "n")


@dataclass(frozen=True)
class Joined:
    """Estimates, true shapes and bounds of n galaxies, in the order of the catalog.

    Attributes
    ----------
    catalog, estimates : pandas.DataFrame
        The tables, in the same order of galaxies.
    truth, estimate, error : ndarray, shape (n, 2)
        Observed shape (g1, g2), its estimate and the estimator's own error.
    good : ndarray of bool, shape (n,)
        True if the estimator did not flag the galaxy.
    bound : ndarray, shape (n, 2)
        Cramer-Rao bound on (g1, g2) at the noise level of the estimates, one standard deviation; empty
        (0, 2) where no bounds were given.
    snr : ndarray, shape (n,)
        Matched-filter signal-to-noise at that noise level; empty without bounds.
    """

    catalog: pd.DataFrame
    estimates: pd.DataFrame
    truth: NDArray[np.float64]
    estimate: NDArray[np.float64]
    error: NDArray[np.float64]
    good: NDArray[np.bool_]
    bound: NDArray[np.float64]
    snr: NDArray[np.float64]

    def flagged(self, good: NDArray[np.bool_]) -> Joined:
        """Return the same with other rows that count as not flagged."""
        return replace(self, good=good)

    @property
    def residual(self) -> NDArray[np.float64]:
        """Estimate minus truth, shape (n, 2)."""
        return self.estimate - self.truth


def join(
    estimates: pd.DataFrame,
    catalog: pd.DataFrame,
    bounds: pd.DataFrame | None = None,
    *,
    source: str = "estimates",
    rule: str = "measure",
) -> Joined:
    """Join estimates, catalog and bounds of the same galaxies.

    Parameters
    ----------
    estimates : pandas.DataFrame
        Table with the attributes of an estimates file in ``.attrs``.
    catalog : pandas.DataFrame
    bounds : pandas.DataFrame, optional
        Bounds for unit noise.
    source : str
        The file of the estimates, named in errors.
    rule : str
        The rule that makes that file, named in errors.

    Returns
    -------
    Joined

    Raises
    ------
    ContractError
        A column or attribute is missing, the galaxies are not exactly those of the catalog, the population,
        split or digest differs from the catalog's, or an unflagged estimate is not finite.
    """
    for column in _ESTIMATES:
        if column not in estimates:
            raise ContractError.of(
                source, f"column '{column}'", f"only {list(estimates)}", "the column", rule
            )
    for name in _ATTRIBUTES:
        if name not in estimates.attrs:
            raise ContractError.of(
                source,
                f"attribute '{name}'",
                f"only {sorted(map(str, estimates.attrs))}",
                "the attribute",
                rule,
            )
    for name, theirs in (("population", "population"), ("split", "split"), ("catalog_digest", "digest")):
        found, expected = estimates.attrs.get(name), catalog.attrs.get(theirs)
        if None not in (found, expected) and found != expected:
            raise ContractError.of(source, name, found, f"'{expected}' as the catalog has it", rule)
    estimates = _in_order_of(catalog, estimates, source, rule)
    bound, snr = np.empty((0, 2)), np.empty(0)
    if bounds is not None:
        bounds = _in_order_of(
            catalog, bounds, "bounds of " + str(estimates.attrs["population"]), "cramer_rao"
        )
        sigma = float(estimates.attrs["sigma"])
        bound = sigma * bounds[["crb_g1", "crb_g2"]].to_numpy(float)
        snr = bounds["snr"].to_numpy(float) / sigma
    estimate = estimates[["g1", "g2"]].to_numpy(float)
    good = estimates["flag"].to_numpy() == 0
    broken = good & ~np.isfinite(estimate).all(axis=1)
    if broken.any():
        first = int(estimates["galaxy_id"].to_numpy()[broken][0])
        raise ContractError.of(
            source, "g1, g2", f"not finite for galaxy {first}", "finite where flag is 0", rule
        )
    return Joined(
        catalog=catalog,
        estimates=estimates,
        truth=catalog[["g1", "g2"]].to_numpy(float),
        estimate=estimate,
        error=estimates[["g1_err", "g2_err"]].to_numpy(float),
        good=good,
        bound=bound,
        snr=snr,
    )


def _in_order_of(catalog: pd.DataFrame, table: pd.DataFrame, source: str, rule: str) -> pd.DataFrame:
    ids = pd.Index(table["galaxy_id"])
    if not ids.is_unique:
        raise ContractError.of(source, "galaxy_id", "repeated numbers", "each galaxy once", rule)
    at = ids.get_indexer(pd.Index(catalog["galaxy_id"]))
    if len(ids) != len(catalog) or (at < 0).any():
        found = f"{len(ids)} galaxies, {int((at >= 0).sum())} of them in the catalog"
        raise ContractError.of(source, "galaxy_id", found, f"the {len(catalog)} of the catalog", rule)
    ordered = table.iloc[at].reset_index(drop=True)
    ordered.attrs = dict(table.attrs)
    return ordered


def identity(estimates: pd.DataFrame, label: str | None) -> dict[str, Any]:
    """Return the columns that identify a result: population, noise, estimator, label, kind, seed."""
    attrs = estimates.attrs
    return {
        "population": attrs["population"],
        "noise": float(attrs["sigma"]),
        "estimator": attrs["estimator"],
        "label": label or attrs["estimator"],
        "kind": attrs["kind"],
        "seed": -1 if attrs["seed"] is None else int(attrs["seed"]),
    }
