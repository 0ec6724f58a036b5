"""The metrics as LaTeX tables: seeds are combined and values rounded to two digits of their errors.

The tables need the LaTeX packages booktabs and longtable. Names of the configuration have letters,
digits, ``-`` and ``_`` only and are used unchanged in the label of a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from shearbench.evaluation.contrastive import METHODS
from shearbench.evaluation.failures import failing, sentences
from shearbench.evaluation.rounding import MISSING
from shearbench.evaluation.statistics import combine_seeds
from shearbench.evaluation.study import verdict
from shearbench.paper.latex import escape, longtable, number, power_of_ten
from shearbench.studies import Study

_KEYS = ["population", "noise", "estimator", "label", "kind"]
_BIASES = {name: f"{name}_err" for name in ("m1", "m2", "c1", "c2")}
_LEAKAGE = {name: f"{name}_err" for name in ("alpha1", "alpha2")}
_SURVEY = {name: f"{name}_err" for name in ("shape_noise", "n_eff")}
_CALIBRATIONS = {"none": "raw", "response": "calibrated", "simulated": "simulated"}
_SEEDS = (
    "Networks: mean over training seeds; the error is the scatter of the seeds over the square root of "
    "their number and the bootstrap error over galaxies, in quadrature."
)

_SEEDS_OF_LABELS = "Mean over seeds and the error of the mean"


def combined_accuracy(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy table with the seeds of each network combined; ``n`` and ``n_failed`` added up."""
    return combine_seeds(
        accuracy,
        _KEYS,
        {"rmse": "rmse_err", "rmse_over_crb": "rmse_over_crb_err"},
        means=["snr", "scatter", "median_abs", "crb", "prior_bound", "coverage68", "seconds_per_stamp"],
        sums=["n", "n_failed"],
    )


def combined_shear_bias(shear_bias: pd.DataFrame) -> pd.DataFrame:
    """Return the shear-bias table with the seeds of each network combined; ``n_pairs, n_failed`` added up."""
    return combine_seeds(
        shear_bias,
        [*_KEYS, "calibration"],
        _BIASES | _SURVEY,
        means=["R1", "R2"],
        sums=["n_pairs", "n_failed"],
    )


def combined_psf_leakage(psf_leakage: pd.DataFrame) -> pd.DataFrame:
    """Return the table of the PSF's leakage with the seeds of each network combined."""
    return combine_seeds(psf_leakage, [*_KEYS, "calibration"], _LEAKAGE, sums=["n_pairs", "n_failed"])


def level_bounds(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return snr, crb and prior_bound for each population and noise level.

    The bounds in a row of `accuracy` are those of the galaxies that its estimator did not fail on. The row of
    the estimator with the fewest failures is taken.
    """
    order = accuracy.assign(good=accuracy["n"] - accuracy["n_failed"]).sort_values(
        "good", ascending=False, kind="stable"
    )
    first = order.groupby(["population", "noise"], sort=False, as_index=False).head(1)
    return first[["population", "noise", "snr", "crb", "prior_bound"]].sort_values("noise", kind="stable")


def accuracy_tex(accuracy: pd.DataFrame) -> str:
    """Return ``tables/accuracy.tex``: RMSE of every estimator at each noise level, a table per population."""
    rows, bounds = combined_accuracy(accuracy), level_bounds(accuracy)
    tables = []
    for population, group in rows.groupby("population", sort=False):
        levels = sorted(group["noise"].unique())
        bound = bounds[bounds["population"] == population].set_index("noise")
        powers = {
            noise: _exponent([*group.loc[group["noise"] == noise, "rmse"], bound.loc[noise, "crb"]])
            for noise in levels
        }
        head = [
            [r"$\sigma$", *map(power_of_ten, levels)],
            [r"median S/N", *[number(float(bound.loc[noise, "snr"])) for noise in levels]],
            [r"unit", *[f"$10^{{{powers[noise]}}}$" for noise in levels]],
        ]
        body: list[Sequence[str] | str | None] = []
        for _, own in group.groupby("estimator", sort=False):
            cells = dict.fromkeys(levels, MISSING)
            for row in own.to_dict("records"):
                cells[row["noise"]] = number(row["rmse"], row["rmse_err"], power=powers[row["noise"]])
            body.append([escape(own["label"].iloc[0]), *cells.values()])
        body.append(None)
        for name, column in ((r"Cram\'er--Rao bound", "crb"), ("prior-limited bound", "prior_bound")):
            limits = [number(float(bound.loc[noise, column]), power=powers[noise]) for noise in levels]
            if set(limits) != {MISSING}:
                body.append([name, *limits])
        galaxies = accuracy.loc[accuracy["population"] == population, "n"].max()
        caption = (
            rf"RMSE of $g$, per component, for \texttt{{{escape(population)}}} at each noise level "
            rf"$\sigma$ per pixel, over {galaxies} test galaxies without the failed measurements; each "
            rf"column is in its own unit. {_SEEDS}{_failures(accuracy, population)}"
        )
        tables.append(longtable("l" + "r" * len(levels), head, body, caption, f"tab:accuracy-{population}"))
    return "\n".join(tables)


def shear_bias_tex(shear_bias: pd.DataFrame) -> str:
    """Return ``tables/shear_bias.tex``: m and c before and after calibration, a table per population."""
    head = [
        ["", "", *_symbols(_BIASES), "shape", r"$n_\mathrm{eff}$", "galaxies", "dropped"],
        ["", "", *_units(_BIASES), "noise", "", "", ""],
    ]
    tables = []
    for population, group in combined_shear_bias(shear_bias).groupby("population", sort=False):
        body: list[Sequence[str] | str | None] = []
        for noise, level in group.groupby("noise", sort=True):
            body.append(rf"$\sigma$ = {power_of_ten(float(noise))}")  # type: ignore[arg-type]
            for row in level.to_dict("records"):
                used = [str(int(row[name] / row["n_seeds"])) for name in ("n_pairs", "n_failed")]
                survey = [number(row[name], row[error]) for name, error in _SURVEY.items()]
                calibrated = _CALIBRATIONS[row["calibration"]]
                body.append([escape(row["label"]), calibrated, *_cells(_BIASES, row), *survey, *used])
        caption = (
            rf"Multiplicative bias $m$ and additive bias $c$ for \texttt{{{escape(population)}}}. Each "
            "galaxy is simulated under positive and negative shear in both components, with the same noise "
            "and in several orientations. Calibrated: divided by a response measured on other galaxies, or "
            "by the response that the estimator measures itself; simulated: such an estimator calibrated as "
            "all others are. A galaxy is dropped if any of its "
            "measurements fails. Shape noise: scatter of a component of the calibrated shape of a galaxy, "
            r"noise included. $n_\mathrm{eff}$: effective number of galaxies relative to an estimator that "
            f"measures all true shapes. Errors: bootstrap over galaxies. {_SEEDS}"
            f"{_failures(shear_bias, population)}"
        )
        label = f"tab:shear-bias-{population}"
        tables.append(longtable("llrrrrrrrr", head, body, caption, label, "tiny", space=2))
    return "\n".join(tables)


def estimators_tex(accuracy: pd.DataFrame, shear_bias: pd.DataFrame, psf_leakage: pd.DataFrame) -> str:
    """Return ``tables/estimators.tex``: m, c, alpha, RMSE over bound, coverage, failures of every estimator.

    An estimator that measures ensembles only is in `shear_bias` alone and has no RMSE and no coverage.
    """
    leakage = combined_psf_leakage(psf_leakage[psf_leakage["calibration"] == "response"])
    same = ["population", "noise", "estimator"]
    biases = combined_shear_bias(shear_bias[shear_bias["calibration"] == "response"]).merge(
        leakage[[*same, *_LEAKAGE.keys(), *_LEAKAGE.values()]], on=same, how="left"
    )
    whole = biases["estimator"].isin(set(biases["estimator"]) - set(accuracy["estimator"]))
    single = combined_accuracy(accuracy).merge(
        biases.drop(columns=["n_seeds", "n_failed", "label", "kind"]),
        on=same,
        how="left",
    )
    ensembles = biases[whole].assign(n=biases["n_pairs"] + biases["n_failed"])
    merged = pd.concat([single, ensembles], ignore_index=True) if whole.any() else single
    head = [
        ["", *_symbols(_BIASES), *_symbols(_LEAKAGE), "RMSE /", "coverage", "failed"],
        ["", *_units(_BIASES), *_units(_LEAKAGE), "bound", r"[\%]", ""],
    ]
    tables = []
    for population, group in merged.groupby("population", sort=False):
        body: list[Sequence[str] | str | None] = []
        for noise, level in group.groupby("noise", sort=True):
            body.append(rf"$\sigma$ = {power_of_ten(float(noise))}")  # type: ignore[arg-type]
            for row in level.to_dict("records"):
                coverage = row["coverage68"]
                body.append(
                    [
                        escape(row["label"]),
                        *_cells(_BIASES, row),
                        *_cells(_LEAKAGE, row),
                        number(row["rmse_over_crb"], row["rmse_over_crb_err"]),
                        MISSING if math.isnan(coverage) else f"{100 * coverage:.1f}",
                        f"{int(row['n_failed'])}/{int(row['n'])}",
                    ]
                )
        caption = (
            rf"All estimators on \texttt{{{escape(population)}}}: shear bias after calibration (with a "
            r"response measured on other galaxies, or by the estimator itself); $\alpha$, the leakage of the "
            r"PSF's shape into the calibrated shear; RMSE over the Cram\'er--Rao "
            r"bound of the same galaxies; coverage, the fraction of residuals smaller than the estimator's "
            r"own $1\sigma$ error (68.3\% if the errors are right); number of failed measurements. An "
            "estimator that measures the shear of ensembles only has no RMSE, and its failures are those on "
            "the shear test. At high noise an estimator with a prior can go below the bound because it is "
            f"biased. {_SEEDS}{_failures(accuracy, population)}"
        )
        label = f"tab:estimators-{population}"
        tables.append(longtable("lrrrrrrrrr", head, body, caption, label, "tiny", space=2))
    return "\n".join(tables)


def throughput_tex(throughput: pd.DataFrame) -> str:
    """Return ``tables/throughput.tex``: stamps a second, time and memory of each stage."""
    head = [["", "stamps/s", "stamps", "seconds", "cores", "peak [MB]"]]
    body: list[Sequence[str] | str | None] = []
    for (population, stage), group in throughput.groupby(["population", "stage"], sort=False):
        body.append(rf"{escape(stage)}, \texttt{{{escape(population)}}}")
        for row in group.to_dict("records"):
            cells = [number(row["stamps_per_second"]), str(int(row["stamps"])), number(row["seconds"])]
            memory = row["peak_mb"]
            peak = f"{memory:.0f}" if math.isfinite(memory) else MISSING
            body.append([escape(row["label"]), *cells, str(int(row["cores"])), peak])
    caption = (
        "Speed and peak memory of each stage, on the machine described in manifest.json. Measuring: sum over "
        "all noise levels, splits and seeds of an estimator. Training: a stamp counts each time it is seen."
    )
    return longtable("lrrrrr", head, body, caption, "tab:throughput")


def networks_tex(networks: pd.DataFrame) -> str:
    """Return ``tables/networks.tex``: size, cost and receptive field of each network."""
    head = [
        ["", "architecture", "parameters", "FLOPs", "receptive field", "training"],
        ["", "", r"[$10^3$]", "[$10^6$ per stamp]", "[pixels]", "[kB per stamp]"],
    ]
    body: list[Sequence[str] | str | None] = []
    for channels, alike in networks.groupby("channels", sort=True):
        names = ", ".join(rf"\texttt{{{escape(name)}}}" for name in alike["population"].drop_duplicates())
        body.append(f"{'one PSF' if channels == 1 else 'a PSF for each galaxy'}: {names}")
        for row in alike.drop_duplicates("variant").to_dict("records"):
            whole = row["receptive_field"] == row["side"]
            cells = [f"{row['parameters'] / 1e3:.1f}", f"{row['flops'] / 1e6:.1f}"]
            cells += ["all" if whole else f"{row['receptive_field']}", f"{row['training_kb']:.0f}"]
            kind = escape(row["architecture"]) + (" + forward model" if row["refined"] else "")
            body.append([escape(row["variant"]), kind, *cells])
    caption = (
        "The networks. FLOPs: floating-point operations of convolutions and matrix products to measure one "
        "stamp, without those of a forward model; a multiplication and an addition count as two. Receptive "
        "field: number of pixels across that one feature before the dense layers depends on, that is, where "
        "its gradient is not zero (all: the whole stamp). Training: memory that one stamp of a batch needs "
        "for the gradient."
    )
    return longtable("llrrrr", head, body, caption, "tab:networks")


def study_tex(study: Study, table: pd.DataFrame) -> str:
    """Return ``tables/study_{name}.tex``: RMSE over the bound of each value; the caption has the verdict."""
    head = [["", "seeds", "RMSE / bound", "factor", r"signif."]]
    body: list[Sequence[str] | str | None] = []
    for noise in sorted(table["noise"].unique()):
        level = table[table["noise"] == noise]
        body.append(rf"$\sigma$ = {power_of_ten(noise)}")
        for row in level.to_dict("records"):
            significance = row["n_sigma"]
            body.append(
                [
                    escape(row["value"]),
                    str(int(row["n_seeds"])),
                    number(row["rmse_over_crb"], row["rmse_over_crb_err"]),
                    _factor(row),
                    rf"${significance:.1f}\,\sigma$" if math.isfinite(significance) else MISSING,
                ]
            )
    caption = (
        rf"{escape(study.question)} RMSE over the Cram\'er--Rao bound on "
        rf"\texttt{{{escape(study.population)}}}. The last two columns give the ratio to the best value at "
        rf"each noise level $\sigma$, and its significance. {escape(verdict(study, table))}"
    )
    return longtable("lrrrr", head, body, caption, f"tab:study-{study.name}")


def morphology_tex(summary: pd.DataFrame) -> str:
    """Return ``tables/morphology.tex``: accuracy and calibration of every classifier of galaxies."""
    head = [["", "kind", "weights", "accuracy", "balanced", "cross-entropy", "calibration error"]]
    body: list[Sequence[str] | str | None] = []
    for row in summary.to_dict("records"):
        cells = [
            number(row[name], _error_over_seeds(row, name))
            for name in ("accuracy", "balanced_accuracy", "loss", "ece")
        ]
        kind = escape(row["architecture"])
        body.append([escape(row["variant"]), kind, f"{int(row['parameters'])}", *cells])
    images = int(summary["n_images"].max()) if len(summary) else 0
    caption = (
        f"Classification of {images} test images of galaxies by morphology. Accuracy: fraction of right "
        "answers; balanced: mean over the classes of the fraction of each class that is found; "
        "cross-entropy: in nats; calibration error: mean difference between the probability of the answer "
        f"and the fraction of right answers. {_SEEDS.replace('galaxies', 'images')}"
    )
    return longtable("llrrrrr", head, body, caption, "tab:morphology")


def labels_tex(curve: pd.DataFrame) -> str:
    """Return ``tables/morphology_labels.tex``: accuracy of every method against the number of labels."""
    shares = curve.drop_duplicates("share").sort_values("share")
    head = [["", "", *(f"{int(labels)} labels" for labels in shares["labels"])]]
    body: list[Sequence[str] | str | None] = []
    for encoder, own in curve.groupby("encoder", sort=False):
        for method, part in own.groupby("method", sort=False):
            rows = part.set_index("share")
            cells = [
                number(rows.loc[share, "accuracy"], rows.loc[share, "accuracy_error"])
                for share in shares["share"]
            ]
            body.append([escape(str(encoder)), escape(METHODS[str(method)]), *cells])
    seeds = int(curve["n_seeds"].max()) if len(curve) else 0
    caption = (
        "Accuracy of classifiers by morphology that are given the labels of some of the training images: "
        "trained from scratch; fine-tuned from an encoder that was trained without labels; linear "
        "classifiers on its features f and on its projections g; and the vote of the nearest features. "
        f"{_SEEDS_OF_LABELS if seeds > 1 else 'One seed'}."
    )
    columns = "ll" + "r" * len(shares)
    return longtable(columns, head, body, caption, "tab:morphology-labels")


def _error_over_seeds(row: Mapping[Any, Any], name: str) -> float:
    """Return the bootstrap error and the scatter of the seeds over the square root of their number."""
    scatter = row[f"{name}_scatter"]
    seeds = scatter / math.sqrt(row["n_seeds"]) if math.isfinite(scatter) else 0.0
    return math.hypot(row[f"{name}_error"], seeds)


def _failures(table: pd.DataFrame, population: object) -> str:
    """Return a sentence on each estimator that fails on most galaxies of a population; empty if none does."""
    own = table[table["population"] == population]
    said = sentences(failing(own.to_dict("records")))
    return "".join(f" {escape(sentence)}." for sentence in said)


def _factor(row: Mapping[Any, Any]) -> str:
    """Return the ratio of a value to the best one, or ``best``, or ``diverged`` if it has no result."""
    if row["n_seeds"] == 0 and row["n_diverged"] > 0:
        return "diverged"
    return "best" if row["best"] else number(row["factor"], row["factor_err"])


def _symbols(quantities: Iterable[str]) -> list[str]:
    """Return the symbols of m1, c1, alpha1, ..."""
    letters = {"alpha": r"\alpha"}
    return [rf"${letters.get(name[:-1], name[:-1])}_{name[-1]}$" for name in quantities]


def _power(quantity: str) -> int:
    """Return the power of ten of the unit of m1, c1, alpha1, ..."""
    return -4 if quantity.startswith("c") else -3


def _units(quantities: Iterable[str]) -> list[str]:
    return [rf"[$10^{{{_power(name)}}}$]" for name in quantities]


def _cells(quantities: Mapping[str, str], row: Mapping[Any, Any]) -> list[str]:
    """Return the cells of quantities, given with the columns of their errors."""
    return [number(row[name], row[error], power=_power(name)) for name, error in quantities.items()]


def _exponent(values: list[float]) -> int:
    """Return the power of ten of the smallest value, which is the unit of a column."""
    finite = [value for value in values if math.isfinite(value) and value > 0]
    return int(np.floor(np.log10(min(finite)))) if finite else 0
