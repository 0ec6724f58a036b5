"""Every figure, drawn from small tables that look like the real ones."""

from __future__ import annotations

import importlib
import inspect
import itertools
import os
import subprocess
import sys
from collections import UserDict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import h5py
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from shearbench.data.noise import unit_noise
from shearbench.data.stamps import StampBatch, StampSet, write_stamps
from shearbench.errors import ContractError
from shearbench.evaluation.attention import EXAMPLES, AttentionMaps
from shearbench.evaluation.gallery import Gallery, make_gallery, read_gallery, write_gallery
from shearbench.figures import (
    accuracy,
    activation_curves,
    attention_maps,
    attention_ranks,
    batches,
    catalogue,
    cost,
    decomposition,
    efficiency,
    error_against_error,
    gallery,
    gradient_flow,
    judged,
    looks,
    model_errors,
    position_codes,
    psf_leakage,
    ranks,
    reliability,
    residuals,
    selection,
    shear_bias,
    shear_bias_bins,
    shear_trends,
    shifts,
    step_cost,
    studies,
    study,
    style,
    training,
    trends,
    truth,
)

NOISE = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
CLASSICAL = {
    "ngmix-exp": ("NGMix, exp (matched)", "ngmix", 0.0, 4e-3),
    "ngmix-gauss": ("NGMix, gauss (mismatched)", "ngmix", 1.3e-2, 3e-3),
    "mixture-exp": ("mixture fit, exp (matched)", "mixture", 0.0, 2e-4),
    "mixture-gauss": ("mixture fit, gauss (mismatched)", "mixture", 1.3e-2, 1.5e-4),
    "hsm-regauss": ("HSM re-Gaussianization", "hsm", 2e-2, 6e-4),
}
NETWORKS = {
    "shearnet": ("ShearNet CNN", 9e-3),
    "pooled": ("max-pooling CNN", 4e-3),
    "dilated": ("dilated CNN", 1.2e-3),
}
BOUND = 11.5  # rms bound over sigma of the default population
PRIOR = 0.2


def _efficient(sigma: float) -> float:
    """Return the RMSE of an estimator with a prior: the bound, or the width of the prior if that is less."""
    return BOUND * sigma / np.hypot(1, BOUND * sigma / PRIOR)


def _rows(
    networks: dict[str, tuple[str, float]], seeds: int
) -> list[tuple[str, str, str, int, float, float]]:
    rows = [(name, label, kind, -1, floor, cost) for name, (label, kind, floor, cost) in CLASSICAL.items()]
    for name, (label, floor) in networks.items():
        rows += [(name, label, "network", k, floor * (1 + 0.15 * k), 4e-5) for k in range(seeds)]
    return rows


def accuracy_table(
    populations: tuple[str, ...] = ("exp_gauss",),
    noise: tuple[float, ...] = NOISE,
    networks: dict[str, tuple[str, float]] = NETWORKS,
    seeds: int = 3,
    n: int = 2000,
) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = []
    for p, population in enumerate(populations):
        for sigma in noise:
            for name, label, kind, seed, floor, seconds in _rows(networks, seeds):
                floor = floor if p == 0 or kind == "network" else max(floor, 1.6e-2)
                rmse = np.hypot(_efficient(sigma), floor) * (1 + 0.01 * rng.standard_normal())
                crb = BOUND * sigma
                rows.append(
                    {
                        "population": population,
                        "noise": sigma,
                        "estimator": name,
                        "label": label,
                        "kind": kind,
                        "seed": seed,
                        "n": n,
                        "n_failed": int(3 * sigma / 1e-3) if kind == "hsm" else 0,
                        "snr": 0.2 / sigma,
                        "bias_g1": 0.3 * floor + 0.02 * rmse * rng.standard_normal(),
                        "bias_g2": -0.2 * floor + 0.02 * rmse * rng.standard_normal(),
                        "slope_g1": -((rmse / PRIOR) ** 2)
                        + (0.1 * floor + 0.02 * rmse) * rng.standard_normal(),
                        "slope_g2": -((rmse / PRIOR) ** 2)
                        + (0.1 * floor + 0.02 * rmse) * rng.standard_normal(),
                        "scatter": 0.9 * rmse,
                        "rmse": rmse,
                        "rmse_err": 0.03 * rmse,
                        "median_abs": 0.6 * rmse,
                        "crb": crb,
                        "crb_median": 0.57 * crb,
                        "prior_bound": _efficient(sigma) * 0.97,
                        "rmse_over_crb": rmse / crb,
                        "rmse_over_crb_err": 0.03 * rmse / crb,
                        "coverage68": 0.66,
                        "seconds_per_stamp": seconds * (1 + 0.3 * p),
                    }
                )
    return pd.DataFrame(rows)


def residual_table(
    population: str = "exp_gauss", n: int = 400, sigma: float = 1e-5, outliers: int = 5
) -> pd.DataFrame:
    tables = []
    for name, label, kind, seed, floor, _ in _rows(NETWORKS, 1):
        rng = np.random.default_rng(7)
        true = np.clip(0.2 * rng.standard_normal((n, 2)), -0.55, 0.55)
        crb = sigma * 6.5 * np.exp(0.7 * rng.standard_normal((n, 2)))
        rng = np.random.default_rng(len(name))
        estimate = (
            true + crb * rng.standard_normal((n, 2)) + 0.3 * floor + floor * rng.standard_normal((n, 2))
        )
        flag = np.zeros(n, int)
        if kind == "hsm":
            estimate[:outliers] = rng.uniform(-0.99, 0.99, (min(outliers, n), 2))
            flag[-7:] = 16
            estimate[-7:] = np.nan
        tables.append(
            pd.DataFrame(
                {
                    "population": population,
                    "noise": sigma,
                    "estimator": name,
                    "label": label,
                    "kind": kind,
                    "seed": seed,
                    "galaxy_id": np.arange(n),
                    "g1": true[:, 0],
                    "g2": true[:, 1],
                    "g1_est": estimate[:, 0],
                    "g2_est": estimate[:, 1],
                    "flag": flag,
                    "hlr": rng.uniform(0.5, 1.2, n),
                    "flux": rng.uniform(0.5, 5, n),
                    "dx": rng.uniform(-0.1, 0.1, n),
                    "dy": rng.uniform(-0.1, 0.1, n),
                    "sersic_n": 1.0,
                    "crb_g1": crb[:, 0],
                    "crb_g2": crb[:, 1],
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def trend_table(population: str = "exp_gauss", sersic: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    ranges = {"hlr": (0.5, 1.2), "flux": (0.5, 5.0), "g": (0.0, 0.6), "centroid": (0.0, 0.14)}
    ranges |= {"sersic_n": (0.7, 3.5)} if sersic else {}
    rows = []
    for name, label, kind, seed, floor, _ in _rows(NETWORKS, 3):
        for quantity, (low, high) in ranges.items():
            edges = np.linspace(0, 1, 9) ** 1.3 * (high - low) + low
            for a, b in itertools.pairwise(edges):
                centre = (a + b) / 2
                crb = 1.15e-4 * {"flux": 1.5 / centre, "hlr": centre}.get(quantity, 1.0)
                rmse = np.hypot(crb, floor * (1 + 0.5 * centre))
                rows.append(
                    {
                        "population": population,
                        "noise": 1e-5,
                        "estimator": name,
                        "label": label,
                        "kind": kind,
                        "seed": seed,
                        "property": quantity,
                        "low": a,
                        "high": b,
                        "centre": centre,
                        "n": 250,
                        "bias": -0.3 * floor * (centre - low) / (high - low)
                        + rmse / 16 * rng.standard_normal(),
                        "bias_err": rmse / 16,
                        "rmse": rmse,
                        "rmse_err": rmse / 22,
                        "crb": crb,
                    }
                )
    return pd.DataFrame(rows)


def shear_table(
    populations: tuple[str, ...] = ("exp_gauss",), noise: tuple[float, ...] = (1e-5, 1e-3, 1e-2)
) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    rows = []
    for population in populations:
        for sigma in noise:
            for name, label, kind, seed, floor, _ in _rows(NETWORKS, 3):
                for calibration in ("none", "response"):
                    error = 3e-6 + 0.02 * _efficient(sigma) + 0.003 * floor
                    m = (
                        -(0.5 * floor + 0.8 * (_efficient(sigma) / PRIOR) ** 2)
                        if calibration == "none"
                        else 0.0
                    )
                    c = 0.05 * floor if calibration == "none" else 0.0
                    row = {
                        "population": population,
                        "noise": sigma,
                        "estimator": name,
                        "label": label,
                        "kind": kind,
                        "seed": seed,
                        "calibration": calibration,
                        "n_pairs": 500 if calibration == "none" else 250,
                        "n_failed": 0,
                    }
                    for letter, value, scale in (("m", m, 1.0), ("c", c, 0.05)):
                        for k in "12":
                            row[f"{letter}{k}"] = value + error * scale * rng.standard_normal()
                            row[f"{letter}{k}_err"] = error * scale
                    rows.append(row | {"R1": 1 + m, "R2": 1 + m, "shape_noise": 0.2, "shape_noise_err": 0.01})
                    rows[-1] |= {"n_eff": 0.9, "n_eff_err": 0.01}
    return pd.DataFrame(rows)


def leakage_table(noise: tuple[float, ...] = (1e-5, 1e-3, 1e-2)) -> pd.DataFrame:
    table = shear_table(noise=noise)
    for k in "12":
        table[f"alpha{k}"], table[f"alpha{k}_err"] = table[f"c{k}"] + 0.3 * table[f"m{k}"], table[f"m{k}_err"]
    return table


def model_errors_table(noise: tuple[float, ...] = (1e-5, 1e-3, 1e-2)) -> pd.DataFrame:
    amounts = {"psf_size": 0.01, "psf_shape": 0.005, "noise_low": -0.1, "noise_high": 0.1}
    table = shear_table(noise=noise)
    parts = [table.assign(told=told, amount=amount) for told, amount in amounts.items()]
    changed = [name for name in table if name[:2] in ("m1", "m2", "c1", "c2")]
    return pd.concat(parts, ignore_index=True).rename(columns={name: f"d{name}" for name in changed})


def judged_table() -> pd.DataFrame:
    table = shear_table(noise=(1e-5, 1e-3))
    table = table[(table["kind"] == "network") & (table["calibration"] == "response")]
    parts = [
        table.assign(
            trained_on=trained, population=population, rmse_over_crb=1.0 + 9 * (trained != population)
        )
        for population in ("exp_gauss", "sersic")
        for trained in ("exp_gauss", "sersic", "faint")
    ]
    table = pd.concat(parts, ignore_index=True).assign(rmse_over_crb_err=0.1, n=100, out_of_distribution=1)
    # An m that is detected in one cell, and of no sign in all others.
    detected = (table["trained_on"] == "faint") & (table["population"] == "sersic")
    return table.assign(m1=np.where(detected, 0.03, 1e-4), m1_err=1e-3, m2=0.0, m2_err=0.0)


def trends_of_shear() -> pd.DataFrame:
    table = shear_table()
    parts = [
        table.assign(property=name, bin=k + 1, centre=10.0 + 30 * k)
        for name in ("s2n", "size")
        for k in range(4)
    ]
    return pd.concat(parts, ignore_index=True)


def selection_rows() -> pd.DataFrame:
    table = shear_table()
    parts = [
        table.assign(quantity=quantity, calibration=table["calibration"].replace("none", "selection"))
        for quantity in ("none", "s2n", "size", "flux", "error")
    ]
    return pd.concat(parts, ignore_index=True)


def uncertainty_curves(noise: tuple[float, ...] = NOISE) -> pd.DataFrame:
    rows = []
    for sigma, (name, label, kind, seed, floor, _) in itertools.product(noise, _rows(NETWORKS, 2)):
        who = {"population": "exp_gauss", "trained_on": "exp_gauss", "out_of_distribution": 0, "noise": sigma}
        who |= {"estimator": name, "label": label, "kind": kind, "seed": seed}
        for calibration, k in itertools.product(("none", "scaled"), range(4)):
            x, error = (k + 0.5) / 4, sigma * 2.0**k
            true, wrong = np.hypot(error, floor), 4 * (k in (0, 3)) * (kind == "hsm")
            rows += [
                who
                | {"calibration": calibration, "curve": curve, "bin": k, "x": at, "y": y, "y_err": 0.1 * y}
                for curve, at, y in (
                    ("coverage", x, x**2),
                    ("error", error, true),
                    ("rank", x, 1.0 + wrong),
                )
            ]
    return pd.DataFrame(rows)


def training_table(populations: tuple[str, ...] = ("exp_gauss",), epochs: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = []
    for population in populations:
        for variant, (_, floor) in NETWORKS.items():
            for seed in range(2):
                for epoch in range(epochs):
                    views = (epoch + 1) * 20000
                    loss = floor**2 + 0.04 * (views / 20000) ** -2.0
                    rmse = np.sqrt(loss) * (1 + 0.1 * rng.random())
                    rows.append(
                        {
                            "population": population,
                            "variant": variant,
                            "seed": seed,
                            "epoch": epoch,
                            "views": views,
                            "seconds": 3.0 * epoch,
                            "learning_rate": 1e-3,
                            "train_loss": loss * (0.85 + 0.1 * rng.random()),
                            "validation_loss": loss * (1 + 0.3 * rng.random()),
                            "validation_rmse": rmse,
                        }
                    )
    return pd.DataFrame(rows)


def study_tables(
    values: tuple[str, ...] = ("max-pooling", "average pooling", "strided", "dilated"), seeds: int = 3
) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(4)
    table, single = [], []
    for i, value in enumerate(values):
        for sigma in NOISE:
            floor = 1.2e-2 / 2.2**i
            ratio = np.hypot(_efficient(sigma), floor) / (BOUND * sigma)
            found = ratio * (1 + 0.12 * rng.standard_normal(seeds))
            row = {"value": value, "variant": f"downsampling-{i}", "population": "exp_gauss", "noise": sigma}
            table.append(
                row
                | {
                    "rmse_over_crb": found.mean(),
                    "rmse_over_crb_err": 0.12 * ratio / np.sqrt(seeds),
                    "judged": sigma == NOISE[0],
                    "n_trained": seeds,
                    "n_diverged": 0,
                }
            )
            single += [
                {**row, "estimator": row["variant"], "seed": k, "rmse_over_crb": found[k]}
                for k in range(seeds)
            ]
    return pd.DataFrame(table), pd.DataFrame(single)


def effects_table(studies: int = 14, values: int = 6) -> pd.DataFrame:
    """Return a summary of studies, of which one value diverged, one in part, and one has one seed."""
    rng = np.random.default_rng(5)
    rows = []
    for sigma in (1e-5, 1e-2):
        for k in range(studies * values):
            effect = float(np.exp(rng.normal(0, 0.3 if sigma < 1e-3 else 0.05)))
            outcome = ["helps" if effect < 1 else "hurts", "no difference seen at this precision"][k % 2]
            lost = {0: 3, 1: 1}.get(k, 0)
            rows.append(
                {
                    "study": f"study_{k // values}",
                    "value": f"value {k % values}: a label",
                    "reference": "none",
                    "population": "exp_gauss",
                    "noise": sigma,
                    "n_trained": 3,
                    "n_seeds": 3 - lost,
                    "n_diverged": lost,
                    "effect": np.nan if lost == 3 else effect,
                    "effect_err": np.nan if lost == 3 else 0.05 * effect,
                    "outcome": {0: "diverged", 2: "one seed"}.get(k, outcome),
                }
            )
    return pd.DataFrame(rows)


def gallery_of(levels: tuple[float, ...] = NOISE, galaxies: int = 2, size: int = 32) -> Gallery:
    y, x = np.indices((size, size)) - (size - 1) / 2
    images = []
    for k in range(galaxies):
        radius = np.sqrt((1.3 - 0.5 * k) * x**2 + (0.8 + 0.4 * k) * y**2 + 0.4 * x * y)
        image = np.exp(-radius / (2.5 + k))
        images.append(3.0 / (1 + k) * image / image.sum())
    noiseless = np.array(images, np.float32)
    noise = unit_noise(1, np.arange(galaxies), (size, size))
    stamp = np.stack([noiseless + np.float32(s) * noise for s in levels])
    model = np.broadcast_to(noiseless, stamp.shape) * np.float32(0.999)
    return Gallery(
        population="exp_gauss",
        model_label="NGMix, exp",
        pixel_scale=0.2,
        galaxy_id=np.arange(galaxies),
        sigma=np.array(levels),
        snr=np.sqrt((noiseless**2).sum(axis=(1, 2)))[None] / np.array(levels)[:, None],
        stamp=stamp,
        model=model,
        residual=stamp - model,
    )


def maps_of(values: tuple[str, ...] = ("pixels (spatial)", "both (CBAM)", "transformer")) -> AttentionMaps:
    y, x = np.indices((24, 24)) - 11.5
    images = np.stack([np.exp(-np.hypot(x, (1 + k) * y) / 4) for k in range(len(EXAMPLES))])
    images /= images.mean((1, 2), keepdims=True)
    code = np.cos(np.subtract.outer(np.arange(9), np.arange(9)))
    return AttentionMaps(
        pixel_scale=0.2,
        sigma=np.array([1e-5, 1e-5, 1e-5, 1e-2]),
        stamp=images,
        information=images**2,
        maps=dict.fromkeys(values, images),
        codes=dict.fromkeys(values[-1:], code),
        scores=dict.fromkeys(values[-2:], np.full((9, 9), 1 / 9)),
    )


def attention_tables(values: tuple[str, ...] = ("pixels (spatial)", "transformer")) -> list[pd.DataFrame]:
    rng = np.random.default_rng(7)
    keys = itertools.product(values, (1, 2, 3), (1e-5, 1e-2), ("features.3", "features.6"))
    ranks = pd.DataFrame(keys, columns=["value", "seed", "noise", "layer"])
    ranks = ranks.assign(study="attention", variant=ranks["value"], n_galaxies=100)
    for kind, mean in (("information", 0.6), ("light", 0.2), ("other", -0.3)):
        ranks[kind] = mean + 0.05 * rng.normal(size=len(ranks))
        ranks[f"{kind}_err"] = 0.02
    costs = pd.DataFrame({"value": ["none", *values]})
    for column in ("parameters", "flops", "forward_seconds", "step_seconds"):
        costs[column] = [1.0, *(1 + rng.random(len(values)))]
    return [ranks, costs]


def inside_tables(values: tuple[str, ...] = ("ReLU", "tanh, $5")) -> dict[str, pd.DataFrame]:
    """Return the tables of measurements inside the networks of a study, by kind."""
    rng = np.random.default_rng(8)
    keys = itertools.product(values, (1, 2, 3), ("start", "end"), range(9))
    flow = pd.DataFrame(keys, columns=["value", "seed", "when", "place"])
    kind = flow["place"] % 3
    flow["kind"] = kind.map({0: "Conv2d", 1: "BatchNorm2d", 2: "ReLU"})
    flow["parameters"] = np.where(kind < 2, 10, 0)
    for column in ("weights", "gradient"):
        flow[column] = np.where(kind < 2, 1 + rng.random(len(flow)), np.nan)
    for column in ("units", "zero", "flat", "dead"):
        flow[column] = np.where(kind == 2, 8 if column == "units" else rng.random(len(flow)), np.nan)
    curves = pd.DataFrame(
        itertools.product(values, ("curve", "row"), np.linspace(-4, 4, 9)), columns=["value", "part", "x"]
    )
    curves = curves.assign(given=curves["x"], response=np.tanh(curves["x"]), slope=0.5)
    costs = attention_tables(values)[1]
    shifts = pd.DataFrame(
        itertools.product(values, (1, 2, 3), (1e-5, 1e-2), (0.25, 0.5)),
        columns=["value", "seed", "noise", "shift"],
    )
    shifts["change_over_crb"] = 10 * shifts["shift"] * (1 + 0.1 * rng.random(len(shifts)))
    batches = pd.DataFrame(
        itertools.product(values, (1, 2, 3), (1e-5, 1e-2), ("running", "mixed", "equal")),
        columns=["value", "seed", "noise", "statistics"],
    )
    batches["rmse_over_crb"] = 2 + rng.random(len(batches))
    return {"flow": flow, "curves": curves, "cost": costs, "shifts": shifts, "batches": batches}


INSIDE = {
    "flow": gradient_flow,
    "curves": activation_curves,
    "cost": step_cost,
    "shifts": shifts,
    "batches": batches,
}
QUESTION = "Which way of making the image smaller sets the floor of the error at low noise?"
FIGURES: dict[str, Callable[[], Figure]] = {
    "accuracy": lambda: accuracy.draw(accuracy_table()),
    "efficiency": lambda: efficiency.draw(accuracy_table()),
    "truth": lambda: truth.draw(residual_table(), "exp_gauss"),
    "residuals": lambda: residuals.draw(residual_table(), "exp_gauss"),
    "trends": lambda: trends.draw(trend_table(), "exp_gauss"),
    "decomposition": lambda: decomposition.draw(accuracy_table(), "exp_gauss"),
    "shear_bias": lambda: shear_bias.draw(shear_table(), "exp_gauss"),
    "psf_leakage": lambda: psf_leakage.draw(leakage_table(), "exp_gauss"),
    "model_errors": lambda: model_errors.draw(model_errors_table(), "exp_gauss"),
    "judged": lambda: judged.draw(judged_table()),
    "reliability": lambda: reliability.draw(uncertainty_curves(), "exp_gauss"),
    "error_against_error": lambda: error_against_error.draw(uncertainty_curves(), "exp_gauss"),
    "ranks": lambda: ranks.draw(uncertainty_curves(), "exp_gauss"),
    "shear_trends": lambda: shear_trends.draw(trends_of_shear(), "exp_gauss"),
    "selection": lambda: selection.draw(selection_rows(), "exp_gauss"),
    "training": lambda: training.draw(training_table()),
    "gallery": lambda: gallery.draw_gallery(gallery_of()),
    "cost": lambda: cost.draw(accuracy_table()),
    "study": lambda: study.draw(*study_tables(), question=QUESTION, axis_label="down-sampling"),
    "studies": lambda: studies.draw(effects_table()),
    "attention_maps": lambda: attention_maps.draw_maps(maps_of(), "attention"),
    "attention_ranks": lambda: attention_ranks.draw(*attention_tables(), QUESTION, "attention"),
    "position_codes": lambda: position_codes.draw_codes(maps_of(), "positions"),
    **{
        module.__name__.rpartition(".")[2]: lambda kind=kind, module=module: module.draw(
            inside_tables()[kind], QUESTION, "activation"
        )
        for kind, module in INSIDE.items()
    },
}


def texts(figure: Figure) -> str:
    found = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    found += [text.get_text() for text in figure.texts]
    for axis in figure.axes:
        found += [axis.get_xlabel(), axis.get_ylabel(), axis.get_title(), axis.get_title(loc="left")]
        found += [child.get_xlabel() for child in axis.child_axes]
        found += [text.get_text() for text in axis.texts]
    return "\n".join(found).replace("\n", " ")


def error_bars(figure: Figure) -> list[float]:
    """Lengths of all error bars, in data units."""
    lengths = []
    for axis in figure.axes:
        for container in axis.containers:
            if isinstance(container, ErrorbarContainer):
                for bars in container.lines[2]:
                    lengths += [
                        float(np.ptp(segment, axis=0).max())
                        for segment in bars.get_segments()
                        if len(segment)
                    ]
    return lengths


def drawn(figure: Figure) -> None:
    """Draw a figure like `style.save`, without the layout, which takes most of the time."""
    figure.set_layout_engine("none")
    with style.context():
        figure.draw_without_rendering()


def settings() -> dict[str, object]:
    return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}


@pytest.mark.parametrize("name", FIGURES)
def test_says_what_it_shows(name: str) -> None:
    before = settings()
    figure = FIGURES[name]()
    assert settings() == before
    assert figure.get_figwidth() in (pytest.approx(style.SINGLE), pytest.approx(style.DOUBLE))
    found = texts(figure)
    estimators = [*(label for label, *_ in CLASSICAL.values()), *(label for label, _ in NETWORKS.values())]
    expected = {
        "accuracy": [*estimators, "[flux units]", "median S/N", "RMSE of $g$", "Cramér–Rao", "prior-limited"],
        "efficiency": [*estimators, "[flux units]", "median S/N", "RMSE / Cramér–Rao bound"],
        "truth": [*estimators, "estimated $g$", "residual / width", "RMSE", "7 of 400 failed"],
        "residuals": [*estimators, "residual of $g_1$ / its robust width", "(7 of 400 failed)"],
        "trends": [*estimators, "[arcsec]", "[flux units]", "true $|g|$", "RMSE of $g$"],
        "decomposition": [*estimators, "|offset|", "|slope $-$ 1|", "scatter of $g$", "[flux units]"],
        "shear_bias": [
            *estimators,
            "LSST",
            "Euclid",
            "Roman",
            "$m_1$",
            "$c_2$",
            "[flux units]",
            "500 galaxies",
        ],
        "psf_leakage": [*estimators, r"$|\alpha|$ < $10^{-2}$", r"$\alpha_1$", r"$\alpha_2$", "250 galaxies"],
        "model_errors": [
            *estimators,
            "PSF 1% larger",
            "noise 10% lower",
            r"$\Delta m$",
        ],
        "shear_trends": [*estimators, "signal-to-noise ratio", "half-light radius / PSF FWHM", "$m$"],
        "selection": [*estimators, "response of shapes $m$", "quantity that is cut", r"$\sigma$ = $10^{-3}$"],
        "judged": ["trained on", "judged on", "10 $|m|$ < 0.001", "10 $m$ = 0.01"],
        "reliability": [
            *estimators,
            "nominal fraction",
            "fraction covered (scaled)",
            r"$\sigma$ = $10^{-5}$",
        ],
        "error_against_error": [*estimators, "rms residual of $g$", "rms error given", r"$10^{-1}$"],
        "ranks": [*estimators, "rank of the true $g$", "5.0", r"$\sigma$ = $10^{-2}$"],
        "training": [*NETWORKS, "loss", "stamps seen", "validation RMSE"],
        "gallery": ["stamp", "model", "residual", r"residual / $\sigma$", "S/N"],
        "cost": [*estimators, "time per stamp [s]", "RMSE / Cramér–Rao bound"],
        "studies": ["helps", "hurts", "diverged", r"$\sigma$ = $10^{-5}$", "3/3"],
        "study": ["down-sampling", QUESTION, r"$\sigma$ = $10^{-5}$", "RMSE / Cramér–Rao bound"],
        "attention_maps": [
            "stamp",
            "information",
            "pixels (spatial)",
            "both (CBAM)",
            "transformer",
            "0.00 to",
        ],
        "attention_ranks": ["rank correlation", "information of another galaxy", "relative to none"],
        "gradient_flow": [
            "first / last layer",
            "zero responses",
            "flat or dead",
            "before the training",
            "after the training",
            r"tanh, \$5",
        ],
        "activation_curves": ["$f'(x)$", "from the centre [pixels]", "edge-filtered galaxy", r"tanh, \$5"],
        "step_cost": ["relative to none", "seconds, training step"],
        "shifts": ["shift [pixels]", "rms change of $g$", r"tanh, \$5"],
        "batches": ["RMSE / RMSE with running averages", "mixed brightness", "equal brightness"],
        "position_codes": ["no code", "from patch", "to patch", "similarity of codes", "weight / mean"],
    }
    for text in expected[name]:
        assert text in found, text
    bare = "truth residuals training gallery attention_maps position_codes step_cost activation_curves"
    if name not in [*bare.split(), "judged", "reliability"]:
        lengths = error_bars(figure)
        assert lengths
        assert all(length > 0 for length in lengths)


def test_points_and_errors_are_those_of_the_table() -> None:
    table = accuracy_table(seeds=3)
    figure = accuracy.draw(table)
    by_color = {
        container.lines[0].get_color(): container
        for container in figure.axes[0].containers
        if isinstance(container, ErrorbarContainer)
    }
    look = looks.looks(table)["dilated"]
    line, _, (bars,) = by_color[look.color].lines
    rows = table[(table["estimator"] == "dilated") & (table["noise"] == 1e-5)]
    assert line.get_ydata()[0] == pytest.approx(rows["rmse"].mean())
    expected = np.hypot(rows["rmse"].std(ddof=1) / np.sqrt(3), rows["rmse_err"].mean())
    assert np.ptp(bars.get_segments()[0][:, 1]) / 2 == pytest.approx(expected)


def test_signal_to_noise_axis_agrees_with_the_table() -> None:
    table = accuracy_table()
    figure = accuracy.draw(table)
    drawn(figure)
    (top,) = figure.axes[0].child_axes
    for noise in NOISE:
        above = top.transData.transform((0.2 / noise, 0))[0]
        assert above == pytest.approx(figure.axes[0].transData.transform((noise, 1))[0])


class TestLooks:
    def test_do_not_depend_on_the_order_of_rows_nor_on_the_figure(self) -> None:
        table = accuracy_table()
        found = looks.looks(table)
        assert found == looks.looks(table.sample(frac=1, random_state=0))
        assert found == looks.looks(residual_table())
        assert found == looks.looks(shear_table())

    def test_training_curves_look_like_their_networks(self) -> None:
        found = looks.looks(accuracy_table())
        lines = {line.get_color() for line in training.draw(training_table()).axes[0].lines}
        assert lines == {found[name].color for name in NETWORKS}

    def test_all_differ(self) -> None:
        many = {f"network-{i:02d}": (f"network {i}", 1e-3) for i in range(20)}
        found = looks.looks(accuracy_table(networks=many)).values()
        assert len({(look.color, look.marker, look.linestyle, look.filled) for look in found}) == 25

    def test_classical_estimators_keep_their_colours_beside_other_networks(self) -> None:
        few, many = accuracy_table(), accuracy_table(networks={"a": ("a", 1e-3)})
        for name in CLASSICAL:
            assert looks.looks(few)[name] == looks.looks(many)[name]

    def test_unknown_kinds_are_not_networks(self) -> None:
        table = accuracy_table()
        table.loc[table["estimator"] == "hsm-regauss", "kind"] = "moments"
        found = looks.looks(table)
        assert found["dilated"] == looks.looks(accuracy_table())["dilated"]
        assert found["hsm-regauss"].color not in {
            look.color for n, look in found.items() if n != "hsm-regauss"
        }

    def test_dollars_and_missing_labels(self) -> None:
        table = pd.DataFrame({"estimator": ["a", "b"], "label": ["5 $ and 6 $", np.nan], "kind": "network"})
        found = looks.looks(table)
        assert found["b"].label == "b"
        assert found["a"].handle().get_label() == r"5 \$ and 6 \$"


FIXED = ("noise", "views", "low", "high", "centre", "g1", "g2", "hlr", "flux", "dx", "dy", "sersic_n")


def _degenerate(table: pd.DataFrame, case: str) -> pd.DataFrame:
    table = table.copy()
    floats = [name for name in table.select_dtypes("float") if name not in FIXED]
    if case == "one noise level":
        return table[table["noise"] == table["noise"].min()] if "noise" in table else table
    if case == "no ngmix":
        return table[~table["estimator"].str.startswith("ngmix")] if "estimator" in table else table
    if case == "one failed":
        name = "estimator" if "estimator" in table else "variant" if "variant" in table else "value"
        table.loc[table[name] == table[name].iloc[-1], floats] = np.nan
    elif case == "all failed":
        table[floats] = np.nan
    elif case == "no errors":
        table[[name for name in table if name.endswith("_err")]] = np.nan
    elif case == "long names":
        if "label" in table:
            table["label"] = table["label"] + " with a name that goes on_and_on for " + "ever" * 9
    elif case == "nothing":
        return table.iloc[:0]
    elif case == "infinite":
        table.loc[table.index[0], floats] = np.inf
    return table


CASES = (
    "one noise level",
    "no ngmix",
    "one failed",
    "all failed",
    "no errors",
    "long names",
    "nothing",
    "infinite",
)


@pytest.mark.parametrize("case", CASES)
def test_bad_luck_is_drawn(case: str) -> None:
    def bad(table: pd.DataFrame) -> pd.DataFrame:
        if "estimator" in table and "label" in table:
            table = table[table["estimator"].isin(["ngmix-exp", "mixture-exp", "dilated"])]
        return _degenerate(table, case)

    single = accuracy_table(seeds=1)
    figures = [
        accuracy.draw(bad(single)),
        efficiency.draw(bad(single)),
        decomposition.draw(bad(single), "exp_gauss"),
        cost.draw(bad(single)),
        truth.draw(bad(residual_table(n=20)), "exp_gauss"),
        residuals.draw(bad(residual_table(n=20)), "exp_gauss"),
        trends.draw(bad(trend_table()), "exp_gauss"),
        shear_bias.draw(bad(shear_table()), "exp_gauss"),
        psf_leakage.draw(bad(leakage_table()), "exp_gauss"),
        model_errors.draw(bad(model_errors_table()), "exp_gauss"),
        judged.draw(bad(judged_table())),
        *(
            one.draw(bad(uncertainty_curves((1e-5, 1e-2))), "exp_gauss")
            for one in (reliability, error_against_error, ranks)
        ),
        selection.draw(bad(selection_rows()), "exp_gauss"),
        shear_trends.draw(bad(trends_of_shear()), "exp_gauss"),
        training.draw(bad(training_table(epochs=2))),
        study.draw(*map(bad, study_tables(seeds=1)), question=QUESTION, axis_label="$ 5 $"),
        *(module.draw(bad(inside_tables()[kind]), QUESTION, "$ 5 $") for kind, module in INSIDE.items()),
    ]
    if case in ("one failed", "all failed"):
        assert "(no result)" in texts(figures[0])
    if case in ("all failed", "nothing", "one noise level"):
        for figure in figures:
            drawn(figure)


def test_outliers_are_counted_not_hidden() -> None:
    table = residual_table(n=800, outliers=300)
    figure = residuals.draw(table, "exp_gauss")
    rows = table[(table["estimator"] == "hsm-regauss") & (table["flag"] == 0)]
    residual = rows["g1_est"] - rows["g1"]
    width = 1.4826 * np.median(np.abs(residual - residual.median()))
    beyond = int((np.abs(residual) / width > 5).sum())
    assert beyond > 100
    assert f"{beyond} beyond" in texts(figure)
    axes = [axis for axis in truth.draw(table, "exp_gauss").axes if "HSM" in axis.get_title()]
    assert sum(len(line.get_ydata()) for line in axes[0].lines[1:]) == 2 * len(rows)


def test_several_populations_have_panels_of_their_own() -> None:
    for count, shown in ((2, 2), (3, 3)):
        names = ("exp_gauss", "sersic_moffat", "cosmos")[:count]
        figure = accuracy.draw(accuracy_table(names))
        visible = [axis for axis in figure.axes if axis.get_visible()]
        assert len(visible) == shown
        for name in names:
            assert name in texts(figure)
    drawn(figure)
    assert len(efficiency.draw(accuracy_table(names)).axes) == 6
    assert len(cost.draw(accuracy_table(names)).axes) == 6


@pytest.mark.parametrize("values", [("8", "16", "32"), tuple("abc"), tuple("abcdefgh")])
def test_a_value_of_a_study_that_diverged_is_marked(values: tuple[str, ...]) -> None:
    table, single = study_tables(values)
    last = table["value"] == values[-1]
    assert "diverged" not in texts(study.draw(table, single, QUESTION, "width"))
    table.loc[table["value"] == values[0], "n_diverged"] = 1
    table.loc[last, ["n_diverged", "rmse_over_crb", "rmse_over_crb_err"]] = [3, np.nan, np.nan]
    figure = study.draw(table, single[single["value"] != values[-1]], QUESTION, "width")
    found = texts(figure)
    assert "seeds that diverged" in found
    assert "1/3" in found
    assert "3/3" in found
    drawn(figure)
    # The mark of the last value is at its place.
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    at = crosses[-1].get_ydata()[0] if len(values) > 5 else crosses[-1].get_xdata()[0]
    assert at == (32 if values[0] == "8" else len(values) - 1)


def test_study_of_a_number_has_a_logarithmic_axis() -> None:
    figure = study.draw(*study_tables(("8", "16", "32", "64")), question=QUESTION, axis_label="width")
    assert figure.axes[0].get_xscale() == "log"


def test_figures_do_not_import_pyplot() -> None:
    code = "import sys, test_figures; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment()
    )
    assert done.stdout.strip() == "False"


def _environment(**more: str) -> dict[str, str]:
    source = str(Path(accuracy.__file__).parents[2])
    here = str(Path(__file__).parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([source, here]), **more}


def test_same_table_same_bytes(tmp_path: Path) -> None:
    """Also in another process, with other hash seeds and a matplotlibrc of the user."""
    style.save(FIGURES["study"](), tmp_path / "a.pdf", tmp_path / "a.png")
    (tmp_path / "matplotlibrc").write_text("font.size: 20\npdf.fonttype: 3\nsavefig.dpi: 50\n")
    code = (
        "import sys, pathlib, test_figures as t; to = pathlib.Path(sys.argv[1]);"
        "t.style.save(t.FIGURES['study'](), to / 'b.pdf', to / 'b.png')"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        check=True,
        env=_environment(PYTHONHASHSEED="5", MATPLOTLIBRC=str(tmp_path)),
    )
    for kind in ("pdf", "png"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert b"/Type3" not in pdf
    assert b"/FontFile2" in pdf
    assert b"CreationDate" not in pdf
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.pdf",
        "a.png",
        "b.pdf",
        "b.png",
        "matplotlibrc",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.04e-4, r"$1.0\times10^{-4}$"), (0.0137, "$0.014$"), (152.3, "$152$"), (0.0, "$0$"), (np.nan, "–")],
)
def test_power(value: float, shown: str) -> None:
    assert style.power(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(1e-5, "$10^{-5}$"), (2e-3, r"$2\times10^{-3}$"), (3.2e-4, r"$3.2\times10^{-4}$")]
)
def test_exact(value: float, shown: str) -> None:
    assert style.exact(value) == shown


class TestGallery:
    @pytest.fixture
    def stamps(self, tmp_path: Path) -> StampSet:
        n, shape = 10, (9, 11)
        images = np.arange(1, n + 1, dtype=np.float32)[:, None, None] * np.ones(shape, np.float32)
        attributes = {"population": "exp_gauss", "split": "test", "pixel_scale": 0.2, "catalog_digest": "0"}
        blocks = iter([(images, images[::-1])])
        ids = np.arange(n, dtype=np.int64)
        write_stamps(tmp_path / "stamps.h5", blocks, ids, ids + 100, shape, True, attributes)
        return StampSet([tmp_path / "stamps.h5"])

    catalog = pd.DataFrame({"galaxy_id": np.arange(10)[::-1], "flux": np.arange(10.0)[::-1]})

    def test_holds_what_was_fitted(self, stamps: StampSet, tmp_path: Path) -> None:
        seen: list[StampBatch] = []

        def fit(batch: StampBatch) -> np.ndarray:
            seen.append(batch)
            model = batch.images * 0.5
            model[1] = np.nan
            return model

        found = make_gallery(stamps, self.catalog, (1e-1, 1e-3), 3, fit, "a model")
        assert found.galaxy_id.tolist() == [7, 2]  # the upper and the lower quartile of the flux
        assert found.sigma.tolist() == [1e-3, 1e-1]
        # The noise every estimator gets: that of the reader.
        (batch,) = stamps.batches(1e-1, seed=3)
        np.testing.assert_allclose(found.stamp[1], batch.images[[7, 2]], atol=1e-6)
        np.testing.assert_array_equal(seen[1].psf, batch.psf[[7, 2]])
        np.testing.assert_allclose(found.residual[:, 0], 0.5 * found.stamp[:, 0], atol=1e-6)
        assert np.isnan(found.residual[:, 1]).all()
        np.testing.assert_allclose(found.snr[0], np.array([8, 3]) * np.sqrt(99) / 1e-3)
        write_gallery(tmp_path / "gallery.h5", [found])
        read = read_gallery(tmp_path / "gallery.h5", "exp_gauss")
        for name, value in vars(found).items():
            np.testing.assert_array_equal(getattr(read, name), value)
        figure = gallery.draw_gallery(read)
        drawn(figure)
        assert "no fit" in texts(figure)

    def test_a_galaxy_without_catalog_is_an_error(self, stamps: StampSet) -> None:
        with pytest.raises(ContractError, match=r"galaxy_id: found 9"):
            make_gallery(stamps, self.catalog[1:], (1e-3,), 3, lambda batch: batch.images, "a model")

    def test_one_level_and_one_galaxy(self) -> None:
        drawn(gallery.draw_gallery(gallery_of((1e-3,), 1)))

    def test_bad_files_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "gallery.h5"
        path.write_bytes(b"not HDF5")
        with pytest.raises(ContractError, match=r"gallery\.h5: file"):
            read_gallery(path, "exp_gauss")
        write_gallery(path, [gallery_of((1e-3, 1e-2))])
        with pytest.raises(ContractError, match="group 'cosmos'"):
            read_gallery(path, "cosmos")
        with h5py.File(path, "a") as file:
            del file["exp_gauss/0.001/model"]
        with pytest.raises(ContractError, match=r"dataset 'exp_gauss/0.001/model'"):
            read_gallery(path, "exp_gauss")


REPORT = Path(__file__).parents[3] / "workflow" / "report"


@pytest.mark.parametrize("name", [*catalogue.entries(), "workflow"])
def test_captions_are_valid(name: str) -> None:
    docutils = pytest.importorskip("docutils.core")
    jinja2 = pytest.importorskip("jinja2")
    entry = catalogue.entries().get(name)
    text = (REPORT / ("workflow.rst" if entry is None else "figure.rst")).read_text()
    # Of Snakemake's, both `get` and attributes are used; jinja takes an entry for an attribute.
    of_study = entry is not None and entry.each == "study"
    wildcards = {"study": "downsampling"} if of_study else {}
    params = SimpleNamespace(entry=None if entry is None else UserDict(asdict(entry)))
    job = SimpleNamespace(wildcards=UserDict(wildcards), params=params, config={})
    rendered = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text).render(snakemake=job)
    # A warning is an error at this level.
    docutils.publish_doctree(rendered, settings_overrides={"halt_level": 2, "report_level": 5})
    assert ("downsampling" in rendered) == of_study
    if name in ("accuracy", "efficiency"):
        assert "biased" in rendered
        assert "S/N" in rendered


def test_the_catalogue_has_every_figure_as_its_module_says() -> None:
    found = catalogue.entries()
    assert set(FIGURES) <= set(found)
    assert [entry.category for entry in found.values()] == sorted(entry.category for entry in found.values())
    for name, entry in found.items():
        module = importlib.import_module(f"shearbench.figures.{name}")
        assert module.ENTRY == entry
        named = {"population": 1, "network": 1, "observation": 1, "study": 2}
        further = named.get(entry.each, 0)
        taken = inspect.signature(module.draw).parameters.values()
        needed = [p.name for p in taken if p.default is p.empty]
        assert len(needed) == len(entry.reads) + further, name
        assert len(taken) == len(needed) + len(entry.reads_if_made), name


def test_a_new_file_is_a_new_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "catalogue.py").write_text("ENTRY = None\n")
    (tmp_path / "mine.py").write_text(
        "import matplotlib\nENTRY = Entry(category='0. Mine', caption='One.', reads=('a.csv',))\n1 / 0\n"
    )
    monkeypatch.setattr(catalogue, "__file__", str(tmp_path / "catalogue.py"))
    assert catalogue.entries() == {"mine": catalogue.Entry("0. Mine", "One.", ("a.csv",))}


@pytest.mark.parametrize("rows", ["none", "without a result"])
def test_tables_without_a_result_are_drawn_as_they_are_read(rows: str, tmp_path: Path) -> None:
    """The columns of a table without rows have no types when it is read; one galaxy has no bias in bins."""
    read = {}
    for name, table in (
        ("accuracy", accuracy_table()),
        ("trends", trend_table()),
        ("bias", shear_table()),
        ("leakage", leakage_table()),
        ("told", model_errors_table()),
        ("judged", judged_table()),
        ("curves", uncertainty_curves((1e-5, 1e-2))),
        ("selected", selection_rows()),
        ("sheared", trends_of_shear()),
    ):
        table = table.iloc[:0] if rows == "none" else _degenerate(table, "all failed")
        table.to_csv(tmp_path / "table.csv", index=False)
        read[name] = pd.read_csv(tmp_path / "table.csv")
    bins = read["bias"].assign(bin=0)
    for figure in (
        accuracy.draw(read["accuracy"]),
        efficiency.draw(read["accuracy"]),
        decomposition.draw(read["accuracy"], "exp_gauss"),
        cost.draw(read["accuracy"]),
        trends.draw(read["trends"], "exp_gauss"),
        shear_bias.draw(read["bias"], "exp_gauss"),
        psf_leakage.draw(read["leakage"], "exp_gauss"),
        model_errors.draw(read["told"], "exp_gauss"),
        judged.draw(read["judged"]),
        *(one.draw(read["curves"], "exp_gauss") for one in (reliability, error_against_error, ranks)),
        selection.draw(read["selected"], "exp_gauss"),
        shear_trends.draw(read["sheared"], "exp_gauss"),
        shear_bias_bins.draw(bins, "exp_gauss"),
    ):
        drawn(figure)
