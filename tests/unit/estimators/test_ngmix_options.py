"""Messages about ngmix if it is not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from shearbench.config.labels import labels
from shearbench.config.reading import resolve
from shearbench.estimators.ngmix import Ngmix


def test_how_to_get_it_where_it_is_not(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    reason = Ngmix().unavailable()
    assert reason is not None
    assert "conda" in reason
    assert "envs/ngmix.yaml" in reason


def test_its_options_load_nothing_heavy():
    code = (
        "import sys, shearbench.estimators.ngmix, shearbench.estimators.hsm; "
        "print([m for m in ('ngmix', 'galsim', 'numba', 'torch', 'numpy') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_labels_say_where_galaxy_and_psf_are_right():
    populations = {
        "exp_gauss": {},
        "sersic_moffat": {},
        "exp_moffat": {"base": "exp_gauss", "psf": {"profile": "moffat"}},
    }
    names = ["ngmix-exp", "ngmix-exp-gauss-psf", "ngmix-gauss", "ngmix-spergel", "ngmix-metacal", "hsm-ksb"]
    found = labels(resolve({"populations": populations, "estimators": {name: {} for name in names}}))
    assert list(found.values()) == [
        "NGMix exp, matched for exp_gauss",
        "NGMix exp, one-Gaussian PSF, matched for exp_gauss, wrong PSF for sersic_moffat, exp_moffat",
        "NGMix gauss, mismatched",
        "NGMix Spergel, matched for exp_gauss, exp_moffat",
        "NGMix metacal",
        "HSM KSB",
    ]
    alone = resolve({"populations": {"exp_gauss": {}}, "estimators": {"ngmix-exp-gauss-psf": {}}})
    assert labels(alone) == {"ngmix-exp-gauss-psf": "NGMix exp, one-Gaussian PSF, matched"}


@pytest.mark.parametrize(
    "wrong", [{"model": "sersic"}, {"psf_model": "moffat"}, {"tries": 0}, {"centroid": 1}]
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Ngmix(**wrong)
