"""Results of a study: a table, the comparison with the best value, and a verdict in words."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special  # scipy.stats, which has the same, takes a second to import

from shearbench.evaluation.rounding import shown
from shearbench.evaluation.scaling import power_law
from shearbench.evaluation.statistics import over_seeds
from shearbench.studies import Study

STUDY = (
    "study value variant population noise n_trained n_seeds n_diverged n n_failed train_seconds "
    "rmse_over_crb rmse_over_crb_err bootstrap_err seed_scatter judged best factor factor_err n_sigma "
    "seeds_needed reference effect effect_err effect_n_sigma effect_p effect_seeds_needed"
).split()
SIGNIFICANT = 3.0
"""Number of standard deviations from which a difference is called significant."""
MOST_SEEDS = 10**6
"""Largest number of seeds that is considered when the seeds needed to separate two values are computed."""

Key = tuple[str, int, float]
"""Network, seed and noise level of a result."""


def study_table(
    study: Study,
    networks: Mapping[str, str],
    accuracy: pd.DataFrame,
    diverged: Collection[tuple[str, int]] = (),
    resampled: Mapping[Key, NDArray[np.float64]] | None = None,
    seconds: Mapping[tuple[str, int], float] | None = None,
) -> pd.DataFrame:
    """Return the RMSE over the bound for each value of a study at each noise level, and compare the values.

    Parameters
    ----------
    study : Study
    networks : mapping of str to str
        The trained network of each value, by the value's label. Values that are equal have the same network.
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``, or its rows for the networks of the study.
    diverged : collection of (str, int)
        Network and seed of each training that diverged.
    resampled : mapping of (str, int, float) to ndarray, shape (resamples,), optional
        For network, seed and noise level, the ratio of RMSE to bound on resamples of the galaxies, the same
        resamples for all (`shearbench.evaluation.accuracy.resampled_ratios`). With them, the error of a
        difference from the galaxies is that of the same galaxies; without, both errors are added, which
        overestimates it.
    seconds : mapping of (str, int) to float, optional
        Time of the training of network and seed [s].

    Returns
    -------
    pandas.DataFrame
        The columns `STUDY`, one row per value and noise level, in the order of the study.

        ``n_trained`` is the number of seeds of the study, ``n_seeds`` of those with a result (if it is 0,
        the result is NaN), ``n_diverged`` of those whose training diverged. ``n`` and ``n_failed`` are sums
        over seeds, ``train_seconds`` is the mean time of a training [s]. ``rmse_over_crb`` is the mean over
        seeds. Its error is the scatter of the seeds (``seed_scatter``, NaN for one seed) over sqrt(n_seeds)
        and the bootstrap error over galaxies (``bootstrap_err``), in quadrature.

        ``judged`` marks the noise levels of the verdict, ``best`` the lowest ratio at each level;
        ``reference`` is the value that this one is compared with in the summary, or itself. ``factor`` is
        the ratio divided by the best one, ``effect`` that divided by the reference's. ``n_sigma`` is the
        significance of ln(factor): the normal deviate with the same probability as Welch's t for the number
        of seeds (Welch 1947, Biometrika 34, 28); ``effect_n_sigma`` is the same for ln(effect), negative if
        the value is better. ``effect_p`` is its two-sided probability, NaN if one of the two has a single
        seed.
        ``seeds_needed`` is the number of seeds of each value at which the same difference would have
        `SIGNIFICANT` sigma; inf if no number is enough because of the error from the galaxies, NaN if there
        is no difference or one of the two has a single seed.
    """
    ours = accuracy[(accuracy["population"] == study.population)]
    ours = ours[ours["estimator"].isin(networks.values())]
    rows: list[dict[str, Any]] = []
    for noise in sorted({*study.levels, *ours["noise"].unique()}):
        found = {
            label: _Result.of(network, noise, ours, resampled or {}) for label, network in networks.items()
        }
        done = {label: result for label, result in found.items() if result.n_seeds}
        best = min(done, key=lambda label: (done[label].ratio, label), default=None)
        for label, result in found.items():
            row: dict[str, Any] = {
                "study": study.name,
                "value": label,
                "population": study.population,
                "noise": noise,
                "n_trained": len(study.seeds),
                "n_diverged": sum(network == result.network for network, _ in diverged),
                "train_seconds": _mean(
                    s for (name, _), s in (seconds or {}).items() if name == result.network
                ),
                "judged": any(math.isclose(noise, level, rel_tol=1e-9) for level in study.levels),
                "best": label == best,
                "reference": study.reference_of(label),
                **result.columns(),
            }
            if best is not None:
                row |= _compared(result, found[best])
            effect = _compared(result, found[study.reference_of(label)])
            row |= {
                "effect": effect["factor"],
                "effect_err": effect["factor_err"],
                "effect_n_sigma": effect["n_sigma"],
                "effect_p": effect["p"],
                "effect_seeds_needed": effect["seeds_needed"],
            }
            rows.append(row)
    return pd.DataFrame(rows, columns=STUDY)


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan


@dataclass(frozen=True)
class _Result:
    """The RMSE over the bound of one network at one noise level, over its seeds."""

    network: str
    ratios: NDArray[np.float64]
    errors: NDArray[np.float64]
    n: int
    n_failed: int
    resampled: NDArray[np.float64] | None
    """Mean over seeds of the ratio on each resample of the galaxies."""

    @classmethod
    def of(
        cls, network: str, noise: float, accuracy: pd.DataFrame, resampled: Mapping[Key, NDArray[np.float64]]
    ) -> _Result:
        found = accuracy[(accuracy["estimator"] == network) & np.isclose(accuracy["noise"], noise, rtol=1e-9)]
        ratio = found["rmse_over_crb"].to_numpy(float)
        usable = np.isfinite(ratio)
        drawn = [
            values
            for (name, seed, level), values in resampled.items()
            if name == network
            and math.isclose(level, noise, rel_tol=1e-9)
            and seed in set(found["seed"][usable])
        ]
        return cls(
            network,
            ratio[usable],
            found["rmse_over_crb_err"].to_numpy(float)[usable],
            int(found["n"].sum()),
            int(found["n_failed"].sum()),
            np.mean(drawn, axis=0) if drawn else None,
        )

    @property
    def n_seeds(self) -> int:
        return len(self.ratios)

    @property
    def ratio(self) -> float:
        return float(self.ratios.mean()) if self.n_seeds else math.nan

    @property
    def scatter(self) -> float:
        return float(self.ratios.std(ddof=1)) if self.n_seeds > 1 else math.nan

    def columns(self) -> dict[str, Any]:
        """Return the columns of this result alone."""
        mean, total = over_seeds(self.ratios.tolist(), self.errors.tolist())
        return {
            "variant": self.network,
            "n_seeds": self.n_seeds,
            "n": self.n,
            "n_failed": self.n_failed,
            "rmse_over_crb": mean,
            "rmse_over_crb_err": total,
            "bootstrap_err": float(self.errors.mean()) if self.n_seeds else math.nan,
            "seed_scatter": self.scatter,
        }


def _compared(one: _Result, other: _Result) -> dict[str, float]:
    """Return the ratio of two results, its error, its significance and the seeds needed to separate them."""
    nothing = dict.fromkeys(("factor", "factor_err", "n_sigma", "p", "seeds_needed"), math.nan)
    if not one.n_seeds or not other.n_seeds:
        return nothing
    if one.network == other.network:
        return nothing | {"factor": 1.0}
    factor = one.ratio / other.ratio
    difference = math.log(factor)
    galaxies = _variance_from_galaxies(one, other)
    # Relative variance of a single seed; unknown from one seed, where the error is that of the galaxies.
    seeds = [(result.scatter / result.ratio) ** 2 for result in (one, other)]
    counts = [one.n_seeds, other.n_seeds]
    known = [(variance, k) for variance, k in zip(seeds, counts) if k > 1]
    n_sigma = _significance(difference, galaxies, known)
    both = len(known) == 2
    return {
        "factor": factor,
        "factor_err": factor * math.sqrt(galaxies + sum(variance / k for variance, k in known)),
        "n_sigma": n_sigma,
        "p": float(2 * special.ndtr(-abs(n_sigma))) if both else math.nan,
        "seeds_needed": _seeds_needed(difference, galaxies, seeds) if both else math.nan,
    }


def _variance_from_galaxies(one: _Result, other: _Result) -> float:
    """Return the variance of the logarithm of the ratio of two results that is due to the galaxies."""
    if one.resampled is None or other.resampled is None:
        return float((one.errors.mean() / one.ratio) ** 2 + (other.errors.mean() / other.ratio) ** 2)
    return float(np.log(one.resampled / other.resampled).var(ddof=1))


def _significance(difference: float, galaxies: float, seeds: Sequence[tuple[float, int]]) -> float:
    """Return the significance of a difference, with its sign, as a normal deviate.

    Parameters
    ----------
    difference : float
    galaxies : float
        Variance from the galaxies.
    seeds : sequence of (float, int)
        Of each of the two: variance of a single seed, and number of seeds.
    """
    variance = galaxies + sum(one / k for one, k in seeds)
    if difference == 0:
        return 0.0
    if variance == 0:
        return math.copysign(math.inf, difference)
    t = abs(difference) / math.sqrt(variance)
    # Welch-Satterthwaite; the variance from the many galaxies counts as exactly known
    spread = sum((one / k) ** 2 / (k - 1) for one, k in seeds)
    if spread > 0:
        tail = float(special.stdtr(variance**2 / spread, -t))
        t = -float(special.ndtri(tail)) if tail > 1e-304 else t
    return math.copysign(t, difference)


def _seeds_needed(difference: float, galaxies: float, seeds: Sequence[float]) -> float:
    """Return the least number of seeds of each at which a difference is significant."""
    if difference == 0:
        return math.nan

    def is_enough(k: int) -> bool:
        return abs(_significance(difference, galaxies, [(one, k) for one in seeds])) >= SIGNIFICANT

    counts = range(2, MOST_SEEDS + 1)
    at = bisect_left(counts, True, key=is_enough)
    return float(counts[at]) if at < len(counts) else math.inf


def verdict(study: Study, table: pd.DataFrame) -> str:
    """Return the verdict of a study in English, computed from the table.

    Parameters
    ----------
    study : Study
    table : pandas.DataFrame
        Table of `study_table`.

    Returns
    -------
    str
        For each judged noise level, sentences on the best value, the values that are significantly worse and
        by which factor, the values that are not, missing results and flagged estimates. Then trainings that
        diverged, and the limits of the errors.
    """
    judged = table[table["judged"]].sort_values("value", kind="stable")
    sentences = []
    for level in study.levels:
        sentences += _at_level(study, level, judged[np.isclose(judged["noise"], level, rtol=1e-9)])
    done = judged[judged["n_seeds"] > 0]
    if done.groupby("noise").size().max() > 1 and (done["n_seeds"] > 1).any():
        sentences.append("Significances take the small number of seeds into account (Welch's t).")
    single = done[done["n_seeds"] == 1].drop_duplicates("value")["value"].tolist()
    if single:
        whose = "" if len(single) == done["value"].nunique() else f" for {_and(single)}"
        sentences.append(
            f"With one seed{whose}, the error is from the test galaxies only: it does not include the "
            "scatter between trainings."
        )
    partly = done[done["n_diverged"] > 0].drop_duplicates("value")
    if len(partly):
        parts = [f"{row['n_diverged']} of {row['value']}" for _, row in partly.iterrows()]
        sentences.append(f"Trainings that diverged and are left out: {_and(parts)}.")
    return " ".join(sentences)


def _at_level(study: Study, level: float, judged: pd.DataFrame) -> list[str]:
    """Return the sentences of a verdict on one noise level."""
    where = f"at sigma = {level:g} on {study.population}"
    done = judged[judged["n_seeds"] > 0].sort_values("rmse_over_crb", kind="stable")
    if done.empty:
        sentence = f"No value of {study.name} has a result {where}: there is no verdict."
        return [sentence, *_without_result(judged)]
    best = done.iloc[0]
    ratio = shown(best["rmse_over_crb"], best["rmse_over_crb_err"])
    counts = sorted(set(done["n_seeds"]))
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seeds += " seed" if seeds == "1" else " seeds"
    sentences = []
    if len(done) == 1:
        sentences.append(
            f"Only {best['value']} has a result {where}: "
            f"its RMSE is {ratio} times the Cramer-Rao bound ({seeds})."
        )
    else:
        sentences.append(
            f"{best['value']} has the lowest RMSE {where}, {ratio} times the Cramer-Rao bound ({seeds} each)."
        )
    same = done["variant"] == best["variant"]
    if same.sum() > 1:
        sentences.append(f"It is the same network as {_and(done.loc[same, 'value'].tolist()[1:])}.")
    others = done[~same]
    clear = others["n_sigma"] >= SIGNIFICANT
    if clear.any():
        sentences.append(f"It is better than {_listed(others[clear])}.")
    if (~clear).any():
        sentences.append(f"The difference is below {SIGNIFICANT:g} sigma for {_listed(others[~clear])}.")
    if study.power_law:
        sentences.append(_law(study, done))
    failed = done[done["n_failed"] > 0]
    if len(failed):
        parts = [f"{row['n_failed']} of {row['n']} for {row['value']}" for _, row in failed.iterrows()]
        sentences.append(f"Estimates that are flagged and left out: {_and(parts)}.")
    return [*sentences, *_without_result(judged)]


def _law(study: Study, done: pd.DataFrame) -> str:
    """Return a sentence on the power law of the RMSE in the values of a study."""
    rows = done[done["value"].isin(study.sizes)]
    sizes = [study.sizes[label] for label in rows["value"]]
    fit = power_law(sizes, rows["rmse_over_crb"].tolist(), rows["rmse_over_crb_err"].tolist())
    if fit is None:
        return "Fewer than 3 values have a result, so that no power law is fitted."
    power, freedom = shown(fit.exponent, fit.exponent_err), fit.n - 2
    return (
        f"Over {fit.n} values from {min(sizes):g} to {max(sizes):g}, the RMSE goes as {study.axis} to the "
        f"power {power} (chi2 {fit.chi2:.1f} for {freedom} degree{'s' if freedom > 1 else ''} of freedom)."
    )


def _without_result(judged: pd.DataFrame) -> list[str]:
    """Return a sentence that names the values without a result and the reasons, or no sentence."""
    missing = judged[judged["n_seeds"] == 0]
    parts = []
    for _, row in missing.iterrows():
        why = "every estimate is flagged" if row["n"] else "not run"
        parts.append(f"{row['value']} ({'diverged' if row['n_diverged'] else why})")
    return [f"Without a result: {_and(parts)}."] if parts else []


def _listed(rows: pd.DataFrame) -> str:
    return _and(
        [
            f"{row['value']} (a factor {shown(row['factor'], row['factor_err'])}, {row['n_sigma']:.1f} sigma"
            f"{_more_seeds(row)})"
            for _, row in rows.iterrows()
        ]
    )


def _more_seeds(row: pd.Series) -> str:
    """Return how many seeds would separate a value from the best one, in words, if it is not separated."""
    needed = row["seeds_needed"]
    if row["n_sigma"] >= SIGNIFICANT or math.isnan(needed):
        return ""
    if math.isinf(needed):
        return "; only more test galaxies would separate them"
    return f"; {needed:.0f} seeds each would separate them"


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
