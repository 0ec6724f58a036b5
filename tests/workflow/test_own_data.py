"""Stamps of a user in the finished tiny run: measured by all, tracked by their contents, never changed."""

from __future__ import annotations

import hashlib
import json

import h5py
import numpy as np
import pytest
from conftest import planned, snakemake

from shearbench.data.stamps import read_stamps
from shearbench.files.tables import read_table

SIGMA = 1e-3
MEASURING = {
    "measure_observation",
    "combine_observation",
    "observe",
    "catalogue_observation",
    "gather_observations",
}


@pytest.fixture
def mine(run):
    """Add test galaxies of the run, with noise, as stamps of a user; the third has NaN. Return the file."""
    (batch,) = read_stamps(run / "results/tiny/stamps/exp_gauss/test/index.json").batches(SIGMA, 1)
    batch.images[2, 0, 0] = np.nan
    with h5py.File(run / "mine.h5", "w") as file:
        file["images"], file["psf"], file["sigma"] = batch.images[:30], batch.psf, SIGMA
        file.attrs["pixel_scale_arcsec"] = batch.pixel_scale
    config = run / "config/tiny.yaml"
    config.write_text(config.read_text() + "observations: {mine: {stamps: mine.h5}}\n")
    return run / "mine.h5"


@pytest.mark.slow
def test_a_users_stamps_are_measured_and_nothing_is_trained_again(run, mine):
    before = hashlib.sha256(mine.read_bytes()).hexdigest()
    jobs = planned(run, ["observations"])
    assert set(jobs) - {"observations"} == {*MEASURING, "figure_observations"}
    snakemake(run, targets=["observations", "results/tiny/manifest.json"])
    assert planned(run, ["observations"]) == {}
    assert hashlib.sha256(mine.read_bytes()).hexdigest() == before
    table = read_table(run / "results/tiny/observations/mine.parquet", ["mixture_exp_g1", "refined_s2n"], "x")
    assert table["stamp_flag"].tolist() == [0, 0, 1, *[0] * 27]
    assert table["cause"][2] == "NaN, infinite or no pixels"
    assert table["refined_flag"][2] == table["mixture_exp_flag"][2] == 128
    assert (table["refined_flag"].drop(2) == 0).all()
    assert (run / "results/tiny/figures/observations_mine.png").exists()
    manifest = json.loads((run / "results/tiny/manifest.json").read_text())
    assert manifest["inputs"]["mine.h5"]["sha256"] == before
    assert "observations/mine.fits" in manifest["outputs"]

    with h5py.File(mine, "r+") as file:
        file["images"][0] *= 2
    assert MEASURING <= set(planned(run, ["observations"]))
    assert "train" not in planned(run, ["observations"])
    mine.unlink()
    output = snakemake(run, "--dry-run", check=False)
    assert "observations.mine.stamps: mine.h5 cannot be read" in output
    assert "Traceback" not in output


def test_a_run_without_stamps_of_a_user_says_so(run):
    output = snakemake(run, "--dry-run", targets=["observations"], check=False)
    assert "observations: this configuration has no stamps of your own" in output
