from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from shearbench.errors import ContractError
from shearbench.evaluation.accuracy import ACCURACY, accuracy, accuracy_table, resampled_ratios
from shearbench.evaluation.residuals import RESIDUALS, TRENDS, residuals, trends
from shearbench.evaluation.statistics import bootstrap_means, combine_seeds, over_seeds
from shearbench.evaluation.throughput import (
    THROUGHPUT,
    TRAINING,
    measurement_throughput,
    read_benchmark,
    throughput,
    throughput_table,
    training_table,
)

SIGMA = 1e-3


def make_tables(n=4000, seed=0, bias=(0.0, 0.0), slope=(0.0, 0.0), spread=1.0):
    """Return estimates with errors of `spread` times the bound, an offset and a slope."""
    rng = np.random.default_rng(seed)
    catalog = pd.DataFrame(
        {
            "galaxy_id": np.arange(n),
            "g1": 0.2 * rng.standard_normal(n),
            "g2": 0.2 * rng.standard_normal(n),
            "hlr": rng.uniform(0.5, 1.2, n),
            "flux": rng.uniform(0.5, 5, n),
            "dx": rng.uniform(-0.1, 0.1, n),
            "dy": rng.uniform(-0.1, 0.1, n),
            "sersic_n": 1.0,
        }
    )
    catalog.attrs = {"population": "toy", "split": "test", "digest": "d"}
    bounds = pd.DataFrame({"galaxy_id": np.arange(n), "snr": rng.uniform(0.1, 0.3, n)})
    for name in ("crb_g1", "crb_g2"):
        bounds[name] = rng.uniform(5, 15, n)
    estimates = pd.DataFrame({"galaxy_id": np.arange(n)})
    for i, name in enumerate(("g1", "g2")):
        error = spread * SIGMA * bounds[f"crb_{name}"]
        noise = error * rng.standard_normal(n)
        estimates[name] = bias[i] + (1 + slope[i]) * catalog[name] + noise
        estimates[f"{name}_err"] = error
    estimates["flag"] = 0
    estimates.attrs = {
        "seconds": 2.0,
        "n": n,
        "estimator": "toy-fit",
        "kind": "toy",
        "population": "toy",
        "split": "test",
        "sigma": SIGMA,
        "seed": None,
        "catalog_digest": "d",
    }
    return estimates, catalog, bounds


def with_attrs(table, like):
    table.attrs = dict(like.attrs)
    return table


class TestAccuracy:
    def test_finds_what_was_put_in(self):
        estimates, catalog, bounds = make_tables(20000, bias=(2e-3, -3e-3), slope=(0.05, -0.02))
        row = accuracy(estimates, catalog, bounds, label="Toy")
        noise = row["crb"] / math.sqrt(20000)
        # four standard errors each
        assert row["bias_g1"] == pytest.approx(2e-3, abs=4 * noise + 0.05 * 4 * 0.2 / math.sqrt(20000))
        assert row["bias_g2"] == pytest.approx(-3e-3, abs=4 * noise + 0.02 * 4 * 0.2 / math.sqrt(20000))
        assert row["slope_g1"] == pytest.approx(0.05, abs=4 * noise / 0.2)
        assert row["slope_g2"] == pytest.approx(-0.02, abs=4 * noise / 0.2)
        assert row["scatter"] == pytest.approx(row["crb"], rel=4 / math.sqrt(40000))
        whole = row["scatter"] ** 2 + (2e-3**2 + 3e-3**2) / 2 + (0.05**2 + 0.02**2) / 2 * 0.2**2
        assert row["rmse"] ** 2 == pytest.approx(whole, rel=0.05)
        assert (row["label"], row["seed"], row["noise"]) == ("Toy", -1, SIGMA)
        assert row["seconds_per_stamp"] == pytest.approx(1e-4)
        assert list(row) == ACCURACY

    def test_exact_small_case(self):
        """Four galaxies by hand: residuals (1, -1, 1, -1) and (3, 3, -3, -3), bound 2."""
        estimates, catalog, bounds = make_tables(4)
        catalog["g1"], catalog["g2"] = [0.1, 0.1, -0.1, -0.1], [0.0, 0.1, 0.0, 0.1]
        estimates["g1"] = catalog["g1"] + [1.0, -1.0, 1.0, -1.0]
        estimates["g2"] = catalog["g2"] + [3.0, 3.0, -3.0, -3.0]
        estimates["g1_err"], estimates["g2_err"] = 1.5, 1.5
        bounds["crb_g1"] = bounds["crb_g2"] = 2 / SIGMA
        row = accuracy(estimates, catalog, bounds, np.full((4, 2), 0.5))
        assert row["bias_g1"] == row["bias_g2"] == pytest.approx(0, abs=1e-15)
        assert row["slope_g1"] == row["slope_g2"] == pytest.approx(0, abs=1e-12)
        assert row["rmse"] == row["scatter"] == pytest.approx(math.sqrt(5))
        assert row["crb"] == row["crb_median"] == pytest.approx(2)
        assert row["rmse_over_crb"] == pytest.approx(math.sqrt(5) / 2)
        assert row["median_abs"] == pytest.approx(1.4826 * 2)
        assert row["prior_bound"] == pytest.approx(0.5)
        assert row["coverage68"] == 0.5

    def test_honest_errors_cover_68_percent_and_reach_the_bound(self):
        estimates, catalog, bounds = make_tables(20000)
        row = accuracy(estimates, catalog, bounds)
        assert row["coverage68"] == pytest.approx(0.6827, abs=4 * math.sqrt(0.68 * 0.32 / 40000))
        assert abs(row["rmse_over_crb"] - 1) < 4 * row["rmse_over_crb_err"]

    def test_failures_are_counted_and_left_out(self):
        estimates, catalog, bounds = make_tables(100)
        estimates.loc[:9, ["g1", "g2", "g1_err", "g2_err"]] = np.nan
        estimates.loc[:9, "flag"] = 16
        row = accuracy(estimates, catalog, bounds)
        rest = [with_attrs(t.iloc[10:], t) for t in (estimates, catalog, bounds)]
        alone = accuracy(*rest)
        assert (row["n"], row["n_failed"]) == (100, 10)
        for name in ("rmse", "crb", "crb_median", "coverage68", "rmse_over_crb", "rmse_err"):
            assert row[name] == alone[name]

    def test_all_failed_gives_a_row_of_nan(self):
        estimates, catalog, bounds = make_tables(50)
        estimates["flag"] = 2
        row = accuracy(estimates, catalog, bounds)
        assert (row["n"], row["n_failed"]) == (50, 50)
        assert math.isnan(row["rmse"])
        assert math.isnan(row["rmse_over_crb"])

    def test_errors_that_are_not_given_do_not_count(self):
        estimates, catalog, bounds = make_tables(50)
        estimates[["g1_err", "g2_err"]] = np.nan
        assert math.isnan(accuracy(estimates, catalog, bounds)["coverage68"])

    def test_order_of_rows_does_not_matter(self):
        estimates, catalog, bounds = make_tables(200)
        prior = np.random.default_rng(1).uniform(0.1, 0.2, (200, 2))
        estimates.loc[::7, "flag"] = 1
        mixed = np.random.default_rng(2).permutation(200)
        one = accuracy(estimates, catalog, bounds, prior)
        other = accuracy(
            with_attrs(estimates.iloc[::-1], estimates),
            catalog,
            with_attrs(bounds.iloc[mixed], bounds),
            prior[mixed],
        )
        assert one == other

    def test_one_galaxy_and_one_shape_raise_no_warning(self):
        estimates, catalog, bounds = make_tables(5)
        catalog["g1"] = 0.0
        assert math.isnan(accuracy(estimates, catalog, bounds)["slope_g1"])
        accuracy(*[with_attrs(t.iloc[:1], t) for t in make_tables(5)])

    def test_table_has_the_contract_columns(self):
        rows = [accuracy(*make_tables(20, seed)) for seed in range(3)]
        table = accuracy_table(rows)
        assert list(table) == ACCURACY
        assert len(table) == 3
        assert table["n"].dtype == np.int64
        assert list(accuracy_table([])) == ACCURACY


class TestResampledRatios:
    def test_they_are_those_of_the_error(self):
        tables = make_tables(500)
        row, ratios = accuracy(*tables, resamples=100), resampled_ratios(*tables, resamples=100)
        assert ratios.shape == (100,)
        assert ratios.std(ddof=1) == pytest.approx(row["rmse_over_crb_err"])

    def test_all_estimators_have_the_same_galaxies_whatever_each_of_them_flags(self):
        estimates, catalog, bounds = make_tables(500)
        flagged = with_attrs(estimates.copy(), estimates)
        flagged.loc[:9, ["g1", "g2"]] = np.nan
        flagged.loc[:9, "flag"] = 1
        one, other = (
            resampled_ratios(table, catalog, bounds, resamples=100) for table in (estimates, flagged)
        )
        assert np.log(one / other).std() < 0.3 * np.log(one).std()
        flagged[["g1", "g2"]], flagged["flag"] = np.nan, 1
        assert np.isnan(resampled_ratios(flagged, catalog, bounds, resamples=100)).all()


class TestJoin:
    @pytest.mark.parametrize(
        ("spoil", "field"),
        [
            (lambda e, c, b: (with_attrs(e.iloc[1:], e), c, b), "galaxy_id"),
            (lambda e, c, b: (with_attrs(e.assign(galaxy_id=e["galaxy_id"] + 1), e), c, b), "galaxy_id"),
            (lambda e, c, b: (with_attrs(e.assign(galaxy_id=0), e), c, b), "galaxy_id"),
            (lambda e, c, b: (e, c, b.iloc[:-1]), "bounds of toy: galaxy_id"),
            (lambda e, c, b: (e, with_attrs(c.iloc[:-1], c), b), "galaxy_id"),
            (lambda e, c, b: (with_attrs(e.drop(columns="g1_err"), e), c, b), "column 'g1_err'"),
            (lambda e, c, b: (with_attrs(e.assign(g2=np.nan), e), c, b), "not finite for galaxy 0"),
        ],
    )
    def test_tables_of_other_galaxies_are_refused(self, spoil, field):
        tables = spoil(*make_tables(30))
        with pytest.raises(ContractError, match="snakemake --forcerun") as caught:
            accuracy(*tables, source="here.parquet", rule="fit_toy")
        assert field in str(caught.value)
        assert "here.parquet" in str(caught.value) or "bounds of" in str(caught.value)

    @pytest.mark.parametrize("name", ["population", "split", "catalog_digest"])
    def test_estimates_of_something_else_are_refused(self, name):
        estimates, catalog, bounds = make_tables(30)
        estimates.attrs[name] = "other"
        with pytest.raises(ContractError, match=name):
            accuracy(estimates, catalog, bounds)

    def test_missing_attribute_is_named(self):
        estimates, catalog, bounds = make_tables(30)
        del estimates.attrs["sigma"]
        with pytest.raises(ContractError, match="attribute 'sigma'"):
            accuracy(estimates, catalog, bounds)


class TestStatistics:
    def test_bootstrap_error_is_that_of_the_mean(self):
        values = np.random.default_rng(0).standard_normal((3000, 2)) * [1, 5]
        error = bootstrap_means(values, 400).std(axis=0)
        # the bootstrap's own uncertainty is 1/sqrt(800); four of them
        np.testing.assert_allclose(error, np.array([1, 5]) / math.sqrt(3000), rtol=4 / math.sqrt(800) + 0.02)

    def test_bootstrap_does_not_depend_on_blocks(self, monkeypatch):
        values = np.random.default_rng(0).standard_normal((100, 3))
        whole = bootstrap_means(values, 50)
        monkeypatch.setattr("shearbench.evaluation.statistics._BLOCK", 700)
        np.testing.assert_array_equal(whole, bootstrap_means(values, 50))

    def test_accuracy_error_covers_the_truth_as_often_as_it_says(self):
        """Over 200 samples, the true ratio (1) lies within one quoted error in 68 per cent of them."""
        inside = 0
        for seed in range(200):
            row = accuracy(*make_tables(150, seed), resamples=100)
            inside += abs(row["rmse_over_crb"] - 1) < row["rmse_over_crb_err"]
        # binomial, 3.5 standard deviations
        assert abs(inside / 200 - 0.6827) < 3.5 * math.sqrt(0.68 * 0.32 / 200)

    def test_over_seeds(self):
        mean, error = over_seeds([1.0, 2.0, 3.0], [0.3, 0.3, 0.3])
        assert mean == 2
        assert error == pytest.approx(math.hypot(0.3, 1 / math.sqrt(3)))
        assert over_seeds([4.0], [0.5]) == (4, 0.5)
        assert over_seeds([4.0, math.nan], [0.5, math.nan]) == (4, 0.5)
        assert all(map(math.isnan, over_seeds([math.nan], [math.nan])))

    def test_combine_seeds_keeps_order_and_counts(self):
        table = pd.DataFrame(
            {
                "who": ["b", "a", "b"],
                "seed": [1, -1, 2],
                "x": [1.0, 5, 3],
                "e": [0.1, 0.2, 0.1],
                "n": [10, 10, 10],
            }
        )
        combined = combine_seeds(table, ["who"], {"x": "e"}, sums=["n"])
        assert combined["who"].tolist() == ["b", "a"]
        assert combined["n_seeds"].tolist() == [2, 1]
        assert combined["x"].tolist() == [2, 5]
        assert combined["n"].tolist() == [20, 10]


class TestResiduals:
    def test_rows_side_by_side(self):
        estimates, catalog, bounds = make_tables(100)
        estimates.loc[3, "flag"] = 4
        table = residuals(with_attrs(estimates.iloc[::-1], estimates), catalog, bounds, limit=10)
        assert list(table) == RESIDUALS
        assert table["galaxy_id"].tolist() == list(range(10))
        assert table["flag"].tolist() == [0, 0, 0, 4, 0, 0, 0, 0, 0, 0]
        np.testing.assert_array_equal(table["g1_est"], estimates["g1"][:10])
        np.testing.assert_allclose(table["crb_g2"], SIGMA * bounds["crb_g2"][:10])

    def test_trend_that_was_put_in(self):
        """Shapes are too elongated by 0.02 (hlr - 0.5) per unit shape, at any position angle."""
        estimates, catalog, bounds = make_tables(20000, spread=0.1)
        for name in ("g1", "g2"):
            estimates[name] += 0.02 * (catalog["hlr"] - 0.5) * catalog[name]
        table = trends(estimates, catalog, bounds, bins=6)
        assert list(table) == TRENDS
        by_size = table[table["property"] == "hlr"]
        mean_g = np.hypot(catalog["g1"], catalog["g2"]).mean()
        expected = 0.02 * (by_size["centre"] - 0.5) * mean_g
        assert (np.abs(by_size["bias"] - expected) < 4 * by_size["bias_err"] + 0.03 * expected).all()
        assert by_size["n"].sum() == 20000
        by_shape = table[table["property"] == "g"]
        assert by_shape["bias"].is_monotonic_increasing
        flat = table[table["property"] == "flux"]
        assert (np.abs(flat["rmse"] / flat["crb"] - 0.1) < 0.1).all()

    def test_property_that_does_not_vary_is_left_out(self):
        table = trends(*make_tables(500))
        assert set(table["property"]) == {"hlr", "flux", "g", "centroid"}

    def test_edges_do_not_depend_on_who_failed(self):
        estimates, catalog, bounds = make_tables(500)
        whole = trends(estimates, catalog, bounds)
        estimates.loc[catalog["hlr"] > 0.8, "flag"] = 1
        some = trends(estimates, catalog, bounds)
        merged = some.merge(whole, on=["property", "low", "high"])
        assert len(merged) == len(some) < len(whole)


class TestThroughput:
    def test_benchmark_file(self, tmp_path):
        path = tmp_path / "simulate.tsv"
        path.write_text("s\th:m:s\tmax_rss\tmax_vms\n10.0\t0:00:10\t100.5\t1\n12.0\t0:00:12\t90\t1\n")
        assert read_benchmark(path) == {"seconds": 11.0, "peak_mb": 100.5}
        path.write_text("s\th:m:s\tmax_rss\n0.1\t0:00:00\t-\n")
        assert math.isnan(read_benchmark(path)["peak_mb"])

    @pytest.mark.parametrize("content", ["", "a\tb\n1\t2\n", "s\tmax_rss\nfast\t1\n"])
    def test_no_benchmark_file(self, tmp_path, content):
        path = tmp_path / "b.tsv"
        path.write_text(content)
        with pytest.raises(ContractError, match=r"b\.tsv"):
            read_benchmark(path, "simulate_stamps")
        with pytest.raises(ContractError):
            read_benchmark(tmp_path / "none.tsv")

    def test_levels_and_seeds_of_an_estimator_add_up(self):
        attrs = {"population": "p", "estimator": "a", "kind": "k", "n": 100, "seconds": 2.0}
        rows = measurement_throughput(
            [attrs, attrs | {"seconds": 3.0}, attrs | {"estimator": "b"}],
            {"a": "A"},
            [{"peak_mb": 50.0, "gpu_mb": 700.0, "gpu_percent": 31.0}, {"peak_mb": math.nan}, {}],
        )
        table = throughput_table(
            [throughput("p", "simulate", "galsim", stamps=10, seconds=0, kind="s"), *rows]
        )
        assert list(table) == THROUGHPUT
        assert math.isnan(table["stamps_per_second"][0])
        shown = ["label", "stamps", "seconds", "stamps_per_second", "peak_mb", "gpu_mb", "gpu_percent"]
        assert table.loc[1, shown].tolist() == ["A", 200, 5.0, 40.0, 50.0, 700.0, 31.0]
        assert table.loc[2, ["peak_mb", "gpu_mb", "gpu_percent"]].isna().all()
        assert table["label"].tolist() == ["galsim", "A", "b"]

    def test_training_histories(self):
        history = pd.DataFrame([dict.fromkeys(TRAINING[3:], 1.0)]).assign(extra=0)
        table = training_table([("p", "v", 1, history), ("p", "v", 2, history)])
        assert list(table) == TRAINING
        assert table["seed"].tolist() == [1, 2]
        with pytest.raises(ContractError, match="views"):
            training_table([("p", "v", 1, history.drop(columns="views"))])
        assert list(training_table([])) == TRAINING
