"""Every estimator on stamps of even and odd sides, small and large."""

from __future__ import annotations

import galsim
import numpy as np
import pytest

from shearbench.data.stamps import StampBatch
from shearbench.estimators import estimator_presets, make_estimator

PRESETS = estimator_presets()
NAMES = [
    pytest.param(name, marks=pytest.mark.ngmix if preset["kind"].startswith("ngmix") else ())
    for name, preset in PRESETS.items()
    if preset["kind"]
    not in ("metacal-network", "mc-dropout", "ensemble", "calibrated")  # which need trained networks
]


@pytest.mark.parametrize("name", NAMES)
def test_stamps_of_any_side_are_measured(name):
    estimator = make_estimator(PRESETS[name])
    found = []
    for side in (15, 24, 25, 48):
        scale = 9.6 / side
        psf = galsim.Gaussian(sigma=0.6)  # at least a pixel of each
        scene = galsim.Convolve(
            galsim.Exponential(half_light_radius=0.9, flux=2.0).shear(g1=0.2, g2=-0.1), psf
        )
        image, seen = (p.drawImage(nx=side, ny=side, scale=scale).array for p in (scene, psf))
        noise = 1e-5 * np.random.default_rng(0).standard_normal(image.shape)
        one = np.zeros(1, np.int64)
        batch = StampBatch(np.float32(image + noise)[None], np.float32(seen), 1e-5, scale, one, one)
        shapes = estimator.measure(batch)
        assert shapes.flag[0] == 0, side
        found.append([shapes.g1[0], shapes.g2[0]])
    assert np.sign(found).tolist() == [[1, -1]] * 4
