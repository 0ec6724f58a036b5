"""Shear bias of the galaxies that a cut in an observed quantity leaves.

The shear changes the observed signal-to-noise ratio, size and flux of a galaxy, and so which galaxies pass a
cut. The response of the mean shape of the selected galaxies has two parts: that of their shapes, and that of
the selection. Metacalibration measures both, the second from the galaxies that pass under each artificial
shear (Sheldon & Huff 2017, ApJ 841, 24, eq. 14). Here both come from stamps under opposite shears with
the same noise, in the same way for every estimator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shearbench.evaluation.joining import Joined, identity, join
from shearbench.evaluation.shear_pairs import Means, Pairs, calibrated, halves_of, pairs_of
from shearbench.evaluation.statistics import RESAMPLES

SELECTION = (
    "population noise estimator label kind seed quantity column calibration passing threshold "
    "n_pairs n_failed m1 m1_err m2 m2_err c1 c1_err c2 c2_err S1 S2"
).split()
QUANTITIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "s2n": (("s2n",), ("flux", "flux_err")),
    "size": (("T",), ("size",)),
    "flux": (("flux",),),
    "error": (("g1_err", "g2_err"),),
}
"""For each quantity, the columns of estimates that may hold it; the first that an estimator has are taken.

Of two columns, ``s2n`` is their ratio; ``error`` is -sqrt(g1_err^2 + g2_err^2), so that large values pass.
"""
PASSING = 0.7
"""The fraction of stamps that a cut leaves."""


def selection(
    estimates: pd.DataFrame,
    catalog: pd.DataFrame,
    *,
    label: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    source: str = "estimates",
    rule: str = "measure",
) -> list[dict[str, Any]]:
    """Return the rows of ``metrics/selection.csv``: m and c of the galaxies that pass a cut.

    Parameters
    ----------
    estimates, catalog, label, resamples, seed, source, rule
        As for `shearbench.evaluation.shear_bias.shear_bias`.

    Returns
    -------
    list of dict
        The columns `SELECTION`. For each of the `QUANTITIES`, three rows, or one with ``column`` = "not
        measured" and no numbers if the estimator does not measure it. A stamp passes if the quantity is above
        ``threshold``, which leaves the fraction `PASSING` of all stamps. ``passing`` is that of the judged
        stamps; 1 for ``quantity`` = none, all galaxies.

        With the weight w, 1 for a stamp that passes and else 0, the mean shape under each shear is
        <w ghat> / <w>, and its derivative by the shear is the response of the selected sample. That of shapes
        is <W (ghat(+s) - ghat(-s)) / 2s> / <W>, with the mean W of w(+s) and w(-s); the rest is the
        response of the selection. Both are divided by that of the true shapes of the same stamps.
        ``S1, S2`` is the response of the selection over that of shapes.

        *none*: m of the mean shape as it is, and c, the mean shape over all shears.

        *response*: calibrated without the selection: by the response of shapes of selected galaxies, measured
        on every second base galaxy, or by the response that the estimator measures itself for the selected
        stamps. c is divided by it.

        *selection*: calibrated with the selection: its response, from every second base galaxy, is added.

        m and c are those of the other base galaxies. Errors include the noise of both halves. True shapes of
        selected galaxies do not average to zero exactly: c has their noise, and a preference for orientations
        along the PSF is a part of it. A shear moves few stamps across a cut: where none of a few hundred
        crosses it, the response of the selection is found as 0, with an error of 0.

    Raises
    ------
    ContractError
        As for `shear_bias`.
    """
    rows = join(estimates, catalog, source=source, rule=rule)
    who = identity(estimates, label)
    results = []
    for quantity, column, observed in _observed(rows):
        about = {**who, "quantity": quantity, "column": column}
        if observed is None:
            results.append({**about, "calibration": "none"})
            continue
        pairs = pairs_of(rows, observed=observed)
        assert pairs.observed is not None
        threshold = np.nan  # all pass
        if quantity != "none" and pairs.observed.size:
            threshold = float(np.quantile(pairs.observed, 1 - PASSING))
        passes = (~(pairs.observed <= threshold)).astype(float)
        halves = halves_of(pairs, _columns(pairs, passes))
        own = pairs.response is not None
        with np.errstate(divide="ignore", invalid="ignore"):  # a half, or a resample, where none passes
            value, error = calibrated(halves, partial(_biases, shear=pairs.shear, own=own), resamples, seed)
        value, error = value.reshape(3, 6), error.reshape(3, 6)
        judged = passes[~pairs.calibrates]
        for i, calibration in enumerate(("none", "response", "selection")):
            row = {**about, "calibration": calibration}
            row |= {"passing": float(judged.mean()) if judged.size else np.nan}
            row |= {"threshold": threshold, "n_pairs": len(judged), "n_failed": pairs.n_failed}
            for k, name in enumerate(("m1", "m2", "c1", "c2")):
                row |= {name: float(value[i, k]), f"{name}_err": float(error[i, k])}
            results.append(row | {"S1": float(value[i, 4]), "S2": float(value[i, 5])})
    return results


def selection_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `selection` as the table ``metrics/selection.csv``."""
    return pd.DataFrame(list(rows), columns=SELECTION)


def _observed(rows: Joined) -> Iterable[tuple[str, str, NDArray[np.float64] | None]]:
    """Yield each quantity, the columns that hold it, and its value for each row, None if not measured."""
    yield "none", "all", np.zeros(len(rows.estimates))
    for quantity, choices in QUANTITIES.items():
        for names in choices:
            if not {*names} <= {*rows.estimates}:
                continue
            values = rows.estimates[list(names)].to_numpy(float).T
            if quantity == "error":
                observed = -np.hypot(*values)
            else:
                observed = values[0] / values[1] if len(values) > 1 else values[0]
            good = observed[rows.good]
            if np.isfinite(good).all() and len(np.unique(good)) > 1:
                yield quantity, " / ".join(names) if quantity == "s2n" else ", ".join(names), observed
                break
        else:
            yield quantity, "not measured", None


def _columns(pairs: Pairs, passes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums over the rotations of each base galaxy, from whose means `_biases` is computed.

    For each component: w, w ghat, w g of the stamps under +s and under -s; the mean W of both w times the
    responses of ghat and of g, and W. Then w ghat of all stamps (2), w of all, and w R of an estimator that
    measures its own response (2).
    """
    columns = []
    for k in range(2):
        w = passes[:, :, 2 * k : 2 * k + 2]
        estimate, truth = (values[:, :, 2 * k : 2 * k + 2, k] for values in (pairs.estimate, pairs.truth))
        both = w.mean(axis=2)
        columns += [w[..., 0], w[..., 1], w[..., 0] * estimate[..., 0], w[..., 1] * estimate[..., 1]]
        columns += [
            both * (values[..., 0] - values[..., 1]) / (2 * pairs.shear) for values in (estimate, truth)
        ]
        columns += [both]
    columns += [(passes * pairs.estimate[..., k]).mean(axis=2) for k in range(2)]
    columns += [passes.mean(axis=2)]
    table = np.stack(columns, axis=-1).mean(axis=1)
    if pairs.responses is not None:
        own = (passes[..., None] * pairs.responses).mean(axis=(1, 2))
        table = np.column_stack([table, own])
    return table


def _biases(calibrating: Means, judged: Means, shear: float, own: bool) -> Means:
    """Return (..., 3 calibrations * 6): m1, m2, c1, c2, S1, S2."""
    total, shapes, selected, offset, measured = _responses(judged, shear, own)
    _, shapes_there, selected_there, _, _ = _responses(calibrating, shear, own)
    # The response that an estimator measures itself is that of the judged galaxies.
    alone = measured if own else shapes_there
    parts = []
    for divisor in (np.ones_like(total), alone, alone + selected_there):
        parts += [total / divisor - 1, offset / divisor, selected / shapes]
    return np.concatenate(parts, axis=-1)


def _responses(means: Means, shear: float, own: bool) -> tuple[Means, ...]:
    """Return the responses (..., 2) of sample, shapes and selection, the mean shape and the own response.

    The first three are divided by the response of the true shapes, unless the estimator measures its own:
    that gives the applied shear.
    """
    first = [means[..., 7 * k : 7 * k + 7] for k in range(2)]
    plus, minus, weighted_plus, weighted_minus, estimate, truth, both = (
        np.stack([part[..., i] for part in first], axis=-1) for i in range(7)
    )
    total = (weighted_plus / plus - weighted_minus / minus) / (2 * shear)
    shapes = estimate / both
    expected = np.ones_like(truth) if own else truth / both
    everything = means[..., 16:17]
    measured = means[..., 17:19] / everything if own else np.full_like(total, np.nan)
    results = [part / expected for part in (total, shapes, total - shapes)]
    return (*results, means[..., 14:16] / everything, measured)
