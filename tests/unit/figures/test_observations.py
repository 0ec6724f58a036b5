"""The figure of a user's stamps, drawn from small tables that look like the real ones."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from shearbench.evaluation.own_stamps import Measured, observed_tables, results_of
from shearbench.figures.observations import draw

N = 60


def galaxies(n, noise=None):
    rng = np.random.default_rng(2)
    flux = rng.uniform(0.5, 5, n)
    sigma = np.exp(rng.uniform(-10, -3, n)) if noise is None else np.full(n, noise)
    own = {"sigma": sigma, "snr": flux / sigma / 8, "flux": flux, "size": rng.uniform(0.4, 0.9, n)}
    return pd.DataFrame(own | {"psf_fwhm": 0.6, "psf_g1": 0.0, "psf_g2": 0.0})


def measured(name, kind, seed, failed=0, **extra):
    rng = np.random.default_rng(len(name))
    truth = np.random.default_rng(1).normal(0, 0.2, (2, N))
    g1, g2 = truth + rng.normal(0, 0.01, (2, N))
    flag = np.where(np.arange(N) < failed, 16, 0)
    table = pd.DataFrame({"g1": g1, "g2": g2, "g1_err": 0.01, "g2_err": 0.01, "flag": flag, **extra})
    table.loc[flag > 0, ["g1", "g2"]] = np.nan
    return Measured(name, name, name, kind, seed, table)


RESPONSE = {"R11": 0.5, "R12": 0.0, "R21": 0.0, "R22": 0.5}
ALL = [
    measured("hsm", "hsm", -1),
    measured("metacal", "metacal", -1, **RESPONSE),
    measured("refined", "network", 1),
    measured("refined", "network", 2),
    measured("failing", "network", 1, failed=N),
]


def tables(estimators=ALL, data=None, simulated=None):
    data = galaxies(N, 1e-3) if data is None else data
    simulated = galaxies(300) if simulated is None else simulated
    data = data.assign(id=range(len(data)), row=range(len(data)), side=48, stamp_flag=0, cause="")
    catalogue, shapes, shear = results_of("mine", "p", data, simulated, (1e-5, 1e-1), estimators, None, 20)
    return observed_tables(
        {"mine": (catalogue, simulated, shapes, shear), "other": (catalogue, simulated, shapes, shear)}
    )


def drawn(found):
    figure = draw(found["galaxies"], found["shapes"], found["shear"], "mine")
    figure.savefig(io.BytesIO(), format="png", dpi=50)
    return [
        text.get_text() for axis in figure.findobj(match=lambda a: hasattr(a, "get_text")) for text in [axis]
    ]


def test_it_compares_galaxies_and_estimators():
    words = drawn(tables())
    assert "300 simulated galaxies" in words
    assert any(word.endswith("galaxies in range") for word in words)
    assert {"refined, seed 1", "refined, seed 2", "hsm", "metacal", "failing"} <= set(words)
    # HSM, and the two networks: three differences. Metacalibration has no shapes of single galaxies.
    numbers = [word for word in words if word.startswith("0.0") and len(word) >= 5]
    assert len([word for word in numbers if 0.005 < float(word) < 0.03]) >= 3


def test_galaxies_out_of_range_are_counted():
    data = galaxies(N, 1e-3)
    data.loc[:9, "flux"] *= 1000
    data.loc[10:14, "size"] = np.nan
    found = tables(data=data)
    own = found["galaxies"].query("observation == 'mine' and source == 'data'")
    assert own["out_of_range"].sum() >= 15
    assert any(word.endswith("out of range or not measured") for word in drawn(found))


@pytest.mark.parametrize("case", ["nothing measured", "one estimator", "no simulated galaxies", "all fail"])
def test_tables_with_little_in_them(case):
    if case == "nothing measured":
        data = galaxies(N, 1e-3)
        data.loc[:, :] = np.nan
        found = tables(data=data)
    elif case == "one estimator":
        found = tables(ALL[:1])
    elif case == "no simulated galaxies":
        found = tables(simulated=galaxies(300)[:0])
    else:
        found = tables([measured("hsm", "hsm", -1, failed=N), measured("refined", "network", 1, failed=N)])
    assert drawn(found)
