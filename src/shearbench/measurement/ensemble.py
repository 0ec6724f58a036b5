"""Ensembles: the mean of several measurements of the same galaxies, and the two parts of its error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.data.estimates import shapes_table
from shearbench.data.shapes import Shapes
from shearbench.errors import ShearbenchError

KIND = "ensemble"


def combine(members: Sequence[Shapes]) -> Shapes:
    """Return the mean of the shapes by the members of an ensemble, with its error.

    Parameters
    ----------
    members : sequence of Shapes
        Two or more measurements of the same n stamps. Members that flagged a stamp are left out of its mean.

    Returns
    -------
    Shapes
        The square of the error is the mean square of the members' errors, plus the variance of their shapes
        (the unbiased one, also for two members). The roots of both are the extra columns ``g1_aleatoric``
        (from the noise of the pixels) and ``g1_epistemic`` (from the training of one member), and the same
        of g2;
        ``members`` is the number of members in the mean. A stamp that fewer than two members measured has the
        flags of the others.

    Notes
    -----
    Law of total variance, as in Lakshminarayanan, Pritzel & Blundell 2017, NeurIPS 30. The errors of networks
    are calibrated with validation galaxies, so they contain the error of their own training too, and the mean
    of M independent members has 1/M of the variance between them: the sum is an upper limit.
    """
    good = np.stack([one.flag == 0 for one in members])
    count = good.sum(axis=0)
    enough = count >= 2
    bits = np.bitwise_or.reduce([np.asarray(one.flag, np.int64) for one in members])
    mean, aleatoric, epistemic, error = ({} for _ in range(4))
    for name in ("g1", "g2"):
        shape = np.stack([getattr(one, name) for one in members])
        given = np.stack([getattr(one, f"{name}_err") for one in members])
        mean[name] = np.where(enough, _mean(shape, good), np.nan)
        spread = _mean((shape - mean[name]) ** 2, good) * count / np.maximum(count - 1, 1)
        noise = np.where(enough, _mean(given**2, good & np.isfinite(given)), np.nan)
        aleatoric[name], epistemic[name], error[name] = map(np.sqrt, (noise, spread, noise + spread))
    return Shapes(
        mean["g1"],
        mean["g2"],
        error["g1"],
        error["g2"],
        np.where(enough, 0, bits),
        {
            **{f"{name}_aleatoric": values for name, values in aleatoric.items()},
            **{f"{name}_epistemic": values for name, values in epistemic.items()},
            "members": count,
        },
    )


def combined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the estimates of an ensemble from those of its members.

    Parameters
    ----------
    tables : sequence of pandas.DataFrame
        Estimates of the same stamps, as from `shearbench.data.estimates.read_estimates`, or of a user's
        stamps.

    Returns
    -------
    pandas.DataFrame
        The columns of estimates and those of `combine`. Attributes are those of the members, but ``kind`` is
        `KIND` and ``seconds`` the sum of the members' times.

    Raises
    ------
    ShearbenchError
        Two members measured different galaxies.
    """
    first = tables[0]
    same = ["population", "split", "sigma", "catalog_digest", "trained_on"]
    for other in tables[1:]:
        agree = [first.attrs.get(name) == other.attrs.get(name) for name in same]
        if len(other) != len(first) or not all(agree):
            raise ShearbenchError(
                f"the members of an ensemble measured different stamps: {first.attrs}, {other.attrs}"
            )
    shapes = combine([_shapes(table) for table in tables])
    table = shapes_table(shapes, len(first))
    if "galaxy_id" in first:
        if any((other["galaxy_id"].to_numpy() != first["galaxy_id"].to_numpy()).any() for other in tables):
            raise ShearbenchError("the members of an ensemble measured different stamps, or in another order")
        table.insert(0, "galaxy_id", first["galaxy_id"].to_numpy())
    table.attrs = dict(first.attrs)
    if "seconds" in first.attrs:
        table.attrs |= {"kind": KIND, "seconds": sum(one.attrs["seconds"] for one in tables)}
    return table


def _shapes(table: pd.DataFrame) -> Shapes:
    g1, g2, g1_err, g2_err = (table[name].to_numpy(float) for name in ("g1", "g2", "g1_err", "g2_err"))
    return Shapes(g1, g2, g1_err, g2_err, table["flag"].to_numpy(np.int64))


def _mean(values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean over members of the chosen values; NaN where none is chosen."""
    count = chosen.sum(axis=0)
    total = np.where(chosen, values, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
