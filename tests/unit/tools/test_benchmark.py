"""The benchmark: both sides get the same inputs and work. No speed is asserted."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pandas as pd
import pytest

from shearbench.tools import benchmark
from shearbench.tools.benchmark import Comparison, StampSet, compare

N = 12


def answers(comparison):
    """Return the result of each side."""
    return comparison.ours(comparison.inputs), comparison.peer(comparison.inputs)


def recorded(seen, ours=(2.0,), peer=(1.0,), **changes):
    """Return a comparison whose sides record their inputs and return numbers in turn."""
    numbers = {"ours": iter(ours), "peer": iter(peer)}

    def side(name):
        return lambda inputs: seen.append((name, inputs)) or name

    comparison = Comparison(
        name="a vs b",
        unit="stamps/s",
        n=3,
        inputs=object(),
        ours=side("ours"),
        peer=side("peer"),
        measure=lambda work, inputs: next(numbers[work(inputs)]),
        rounds=len(ours),
    )
    return dataclasses.replace(comparison, **changes)


def test_both_sides_get_the_same_inputs_in_turn():
    seen = []
    comparison = recorded(seen, ours=(1, 1, 1), peer=(1, 1, 1))
    compare(comparison)
    assert [name for name, _ in seen] == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]
    assert all(inputs is comparison.inputs for _, inputs in seen)


def test_the_ratio_is_the_median_of_the_rounds():
    # The machine halves its speed in the second round: the medians of the sides are skewed, the ratio is not.
    row = compare(recorded([], ours=(40, 20, 44, 36), peer=(20, 10, 10, 18), warm_up=False))
    assert row == {"name": "a vs b", "ours": 38, "peer": 14, "ratio": 2, "unit": "stamps/s", "n": 3}


def test_a_rate_counts_every_input(monkeypatch):
    clock = iter([0.0, 0.15, 0.3])
    monkeypatch.setattr(benchmark.time, "process_time", lambda: next(clock))
    calls = []
    assert benchmark.cpu_rate(6)(calls.append, "inputs") == pytest.approx(2 * 6 / 0.3)
    assert calls == ["inputs"] * 2


def test_the_table_has_its_columns(tmp_path, monkeypatch, capsys):
    several = [recorded([], name=name) for name in ("first", "second")]
    monkeypatch.setattr(benchmark, "comparisons", lambda folder, size: iter(several))
    table = benchmark.benchmark(tmp_path / "bench" / "bench.csv")
    written = pd.read_csv(tmp_path / "bench" / "bench.csv")
    assert tuple(written) == benchmark.COLUMNS
    pd.testing.assert_frame_equal(written, table, check_dtype=False)
    assert list(written["name"]) == ["first", "second"]
    assert (written["ratio"] == 2).all()
    assert written["machine"].str.contains("cores").all()
    assert "second" in capsys.readouterr().out


def test_without_ngmix_its_rows_are_left_out_with_a_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark.Ngmix, "unavailable", lambda self: "ngmix is away")
    together = benchmark.trainings_together  # of one seed, because five take long to prepare
    monkeypatch.setattr(
        benchmark, "trainings_together", lambda folder, variant, seeds, n: together(folder, variant, 1, n)
    )
    names = [comparison.name for comparison in benchmark.comparisons(tmp_path, size=0.001)]
    assert not any("ngmix" in name for name in names)
    for stage in ("simulation", "rendering", "noise", "bounds", "memory", "fit exp on two cores"):
        assert any(name.startswith(stage) for name in names)
    monkeypatch.setattr(benchmark, "comparisons", lambda folder, size: iter([recorded([])]))
    benchmark.benchmark(tmp_path / "bench.csv")
    assert "ngmix is away" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["exp_gauss", "gauss_gauss", "sersic_moffat"])
def test_the_bare_loop_draws_the_same_pixels(name):
    blocks, (images, psfs) = answers(benchmark.simulation(name, N))
    np.testing.assert_array_equal(np.concatenate([block for block, _ in blocks]), images)
    if name == "sersic_moffat":
        np.testing.assert_array_equal(np.concatenate([psf for _, psf in blocks]), psfs)


@pytest.mark.parametrize("name", ["exp_gauss", "sersic_moffat"])
def test_fourier_and_galsim_render_the_same_galaxies(name):
    comparison = benchmark.rendering(name, N)
    ours, peer = answers(comparison)
    # GalSim's default accuracy: 4e-6 of the flux for Sersic galaxies, better for others.
    flux = comparison.inputs["flux"].to_numpy()
    assert (np.abs(ours - peer).max(axis=(1, 2)) < 4e-6 * flux).all()


def test_numpy_makes_the_same_noise():
    np.testing.assert_array_equal(*answers(benchmark.noise(N)))


@pytest.mark.parametrize("name", ["exp_gauss", "sersic_moffat"])
def test_the_bounds_agree(name):
    ours, peer = answers(benchmark.bounds(name, 4))
    np.testing.assert_allclose(ours, peer, rtol=5e-3)  # steps of 0.01 squared, over shapes and sizes squared


@pytest.mark.ngmix
@pytest.mark.parametrize("sigma", [1e-5, 1e-3])
def test_the_fits_agree(sigma):
    ours, peer = answers(benchmark.fits(sigma, N))
    assert (ours.flag == 0).all()
    assert (peer.flag == 0).all()
    np.testing.assert_allclose(ours.g1, peer.g1, atol=0.1 * sigma)
    np.testing.assert_allclose(ours.extra["flux"], peer.extra["flux"], atol=sigma)


@pytest.mark.ngmix
def test_the_psf_fits_agree():
    ours, peer = answers(benchmark.psf_fits(3))
    weight, row, _, col = np.moveaxis(ours.mixture, 2, 0)
    size = ((row + col) * weight).sum(axis=1) / weight.sum(axis=1)
    np.testing.assert_allclose(size, [one.gmix.get_T() for one in peer], rtol=1e-3)


@pytest.mark.ngmix
def test_the_responses_agree():
    ours, peer = answers(benchmark.metacalibration(N))
    np.testing.assert_allclose(ours.extra["R11"].mean(), peer.extra["R11"].mean(), rtol=0.05)


@pytest.mark.ngmix
@pytest.mark.parametrize("variant", ["shearnet", "whitened", "refined"])
def test_the_network_answers_for_every_stamp(variant):
    comparison = benchmark.inference(variant, N)
    ours, peer = answers(comparison)
    assert ours.shape == (N, 2)
    assert np.isfinite(ours).all()
    assert len(peer.g1) == N


def test_training_steps_have_a_rate_and_a_limit():
    comparison = benchmark.training("shearnet")
    assert comparison.measure(comparison.ours, None) > 0
    assert np.isfinite(comparison.measure(comparison.peer, None))


def test_seeds_trained_together_launch_fewer_operations(tmp_path):
    launches, rate = benchmark.trainings_together(tmp_path, "shearnet", 3, 64)
    together, alone = (launches.measure(side, None) for side in (launches.ours, launches.peer))
    assert 1 < together < 0.6 * alone
    assert rate.measure(rate.ours, None) > 0
    assert rate.n == 3 * 64


def test_two_processes_fit_what_one_does(tmp_path):
    comparison = benchmark.two_cores(tmp_path, 40)
    assert len(comparison.inputs) == 40
    two, one = answers(comparison)
    pd.testing.assert_frame_equal(two, one)


def test_the_rate_on_the_clock_leaves_out_the_start(tmp_path, monkeypatch):
    benchmark.simulate("exp_gauss", 4, tmp_path / "stamps.h5")
    clock = iter([0.0, 5.0, 5.0, 12.0])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    sizes = []
    rate = benchmark.wall_rate(
        lambda stamps: sizes.append(len(stamps)), StampSet([tmp_path / "stamps.h5"] * 3)
    )
    assert sizes == [4, 12]
    assert rate == pytest.approx(8 / 2)


def test_the_peak_of_a_program_is_seen():
    def peak(megabytes):
        code = f"import time; held = bytearray({megabytes} * 10**6); time.sleep(0.2)"
        return benchmark.peak_memory([sys.executable, "-c", code])

    assert peak(200) - peak(0) == pytest.approx(200, rel=0.05)


def test_a_simulation_program_runs(tmp_path):
    comparison = benchmark.memory(tmp_path, 5)
    assert [side(comparison.inputs)[:2] for side in (comparison.ours, comparison.peer)] == [
        [sys.executable, "-c"]
    ] * 2
    assert comparison.measure(comparison.ours, comparison.inputs) > 10
    assert len(StampSet([tmp_path / "memory.h5"])) == 20
