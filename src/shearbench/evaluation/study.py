"""Results of a study: a table, the comparison with the best value, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from shearbench.evaluation.rounding import shown
from shearbench.evaluation.scaling import power_law
from shearbench.evaluation.statistics import over_seeds
from shearbench.studies import Study

STUDY = (
    "study value variant population noise n_seeds n n_failed rmse_over_crb rmse_over_crb_err bootstrap_err "
    "seed_scatter judged best factor factor_err n_sigma n_diverged"
).split()
SIGNIFICANT = 3.0
"""Number of standard deviations from which a difference is called significant."""


def study_table(
    study: Study,
    networks: Mapping[str, str],
    accuracy: pd.DataFrame,
    diverged: Collection[tuple[str, int]] = (),
) -> pd.DataFrame:
    """Return the RMSE over the bound for each value of a study at each noise level.

    Parameters
    ----------
    study : Study
    networks : mapping of str to str
        The trained network of each value, by the value's label. Values that are equal have the same network.
    accuracy : pandas.DataFrame
        ``metrics/accuracy.csv``, or its rows for the networks of the study.
    diverged : collection of (str, int)
        Network and seed of each training that diverged.

    Returns
    -------
    pandas.DataFrame
        The columns `STUDY`, one row per value and noise level, in the order of the study. ``n_seeds`` is the
        number of seeds with a result; if it is 0, the result is NaN. ``n`` and ``n_failed`` are sums over
        seeds. ``rmse_over_crb`` is the mean over seeds. Its error is the scatter of the seeds
        (``seed_scatter``, NaN for one seed) over sqrt(n_seeds) and the bootstrap error over galaxies
        (``bootstrap_err``), in quadrature. ``judged`` marks the noise levels of the verdict, ``best`` the
        lowest ratio at each level. ``factor`` is the ratio divided by the best one. ``n_sigma`` is the
        significance of ln(factor): the normal deviate with the same probability as Welch's t for the number
        of seeds (Welch 1947, Biometrika 34, 28). All values have the same test galaxies, so adding both
        bootstrap errors overestimates the error. ``n_diverged`` is the number of seeds whose training
        diverged.
    """
    ours = accuracy[(accuracy["population"] == study.population)]
    ours = ours[ours["estimator"].isin(networks.values())]
    rows = []
    for noise in sorted({*study.levels, *ours["noise"].unique()}):
        level = [_value(study, label, variant, noise, ours) for label, variant in networks.items()]
        for row in level:
            row["n_diverged"] = sum(variant == row["variant"] for variant, _ in diverged)
        rows.extend(_compared(level))
    return pd.DataFrame(rows, columns=STUDY)


def _value(study: Study, label: str, variant: str, noise: float, accuracy: pd.DataFrame) -> dict[str, object]:
    found = accuracy[(accuracy["estimator"] == variant) & np.isclose(accuracy["noise"], noise, rtol=1e-9)]
    ratio = found["rmse_over_crb"].to_numpy(float)
    usable = np.isfinite(ratio)
    error = found["rmse_over_crb_err"].to_numpy(float)[usable]
    mean, total = over_seeds(ratio.tolist(), found["rmse_over_crb_err"].tolist())
    return {
        "study": study.name,
        "value": label,
        "variant": variant,
        "population": study.population,
        "noise": noise,
        "n_seeds": int(usable.sum()),
        "n": int(found["n"].sum()),
        "n_failed": int(found["n_failed"].sum()),
        "rmse_over_crb": mean,
        "rmse_over_crb_err": total,
        "bootstrap_err": float(error.mean()) if usable.any() else math.nan,
        "seed_scatter": float(ratio[usable].std(ddof=1)) if usable.sum() > 1 else math.nan,
        "judged": any(math.isclose(noise, level, rel_tol=1e-9) for level in study.levels),
    }


@dataclass(frozen=True)
class _Relative:
    """Relative variance of a ratio: from the galaxies, and of the mean over k seeds."""

    galaxies: float
    seeds: float
    k: int

    @classmethod
    def of(cls, row: dict[str, object]) -> _Relative:
        value, k = _number(row, "rmse_over_crb"), int(_number(row, "n_seeds"))
        scatter = _number(row, "seed_scatter")
        seeds = (scatter / value) ** 2 / k if k > 1 else 0.0
        return cls((_number(row, "bootstrap_err") / value) ** 2, seeds, k)


def _number(row: dict[str, object], name: str) -> float:
    return float(row[name])  # type: ignore[arg-type]


def _compared(level: list[dict[str, object]]) -> list[dict[str, object]]:
    """Add the comparison with the best to the rows of one noise level."""
    done = [row for row in level if int(_number(row, "n_seeds")) > 0]
    best = min(done, key=lambda row: _number(row, "rmse_over_crb")) if done else None
    for row in level:
        row |= {"best": row is best, "factor": math.nan, "factor_err": math.nan, "n_sigma": math.nan}
        if best is None or int(_number(row, "n_seeds")) == 0:
            continue
        factor = _number(row, "rmse_over_crb") / _number(best, "rmse_over_crb")
        row["factor"] = factor
        if row is not best:
            one, other = _Relative.of(row), _Relative.of(best)
            variance = one.galaxies + one.seeds + other.galaxies + other.seeds
            row["factor_err"] = factor * math.sqrt(variance)
            row["n_sigma"] = _significance(math.log(factor), variance, (one, other))
    return level


def _significance(difference: float, variance: float, parts: tuple[_Relative, _Relative]) -> float:
    if difference == 0:
        return 0.0
    if variance == 0:
        return math.inf
    t = difference / math.sqrt(variance)
    # Welch-Satterthwaite; the variance from the many galaxies counts as exactly known
    spread = sum(part.seeds**2 / (part.k - 1) for part in parts if part.k > 1)
    if spread == 0:
        return t
    log_tail = stats.t.logsf(t, variance**2 / spread)
    return float(stats.norm.isf(math.exp(log_tail))) if log_tail > -700 else t


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
    judged = table[table["judged"]]
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
    others = done.iloc[1:]
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
            f"{row['value']} (a factor {shown(row['factor'], row['factor_err'])}, {row['n_sigma']:.1f} sigma)"
            for _, row in rows.iterrows()
        ]
    )


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
