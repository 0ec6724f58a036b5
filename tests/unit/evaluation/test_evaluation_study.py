from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from shearbench.evaluation.metrics import read_metrics
from shearbench.evaluation.scaling import power_law
from shearbench.evaluation.study import STUDY, study_table, verdict
from shearbench.paper.tables import study_tex
from shearbench.studies import Study


def make_study(**changes):
    return Study(
        **{
            "name": "downsampling",
            "question": "Does pooling set the floor?",
            "base": "pooled",
            "axis": "options.downsampling",
            "values": {"Max pooling": "max", "Average pooling": "average", "Dilated": "dilated"},
            "noise": 1e-5,
            **changes,
        }
    )


def make_accuracy(results, noise=1e-5, error=0.1, **changes):
    """Rows for {variant: ratios of its seeds}."""
    return pd.DataFrame(
        [
            {
                "population": "exp_gauss",
                "noise": noise,
                "estimator": variant,
                "seed": seed,
                "n": 1000,
                "n_failed": 0,
                "rmse_over_crb": ratio,
                "rmse_over_crb_err": error,
                **changes,
            }
            for variant, ratios in results.items()
            for seed, ratio in enumerate(ratios, 1)
        ]
    )


MAX, AVERAGE, DILATED = "convnet.1", "convnet.2", "dilated"


def table_of(study, accuracy, diverged=(), networks=(MAX, AVERAGE, DILATED)):
    """Return the table of a study whose values have these networks."""
    return study_table(study, dict(zip(study.values, networks)), accuracy, diverged)


class TestStudy:
    def test_variants(self):
        study = make_study(training={"budget": 5, "ema": {"decay": 0.9}})
        assert study.variants() == {
            label: {
                "base": "pooled",
                "training": {"budget": 5, "ema": {"decay": 0.9}},
                "options": {"downsampling": value},
            }
            for label, value in study.values.items()
        }

    def test_axis_of_the_recipe_wins_over_the_common_recipe(self):
        study = make_study(
            axis="training.ema.decay",
            values={"0.9": 0.9, "none": None},
            training={"ema": {"decay": 1, "x": 2}},
        )
        assert study.variants()["0.9"]["training"] == {"ema": {"decay": 0.9, "x": 2}}

    def test_values_may_change_several_options(self):
        study = make_study(
            axis=None,
            values={"whole": {}, "no noise": {"training": {"noise": "fixed"}}, "plain": {"base": "shearnet"}},
        )
        assert study.variants() == {
            "whole": {"base": "pooled"},
            "no noise": {"base": "pooled", "training": {"noise": "fixed"}},
            "plain": {"base": "shearnet"},
        }

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"values": {"one": 1}}, "at least 2"),
            ({"axis": "options..x"}, "pattern"),
            ({"axis": None}, "a mapping of options"),
            ({"seeds": []}, "at least 1"),
            ({"seeds": [1, 1]}, "twice"),
            ({"seeds": [-1]}, "greater than or equal to 0"),
            ({"noise": -1e-5}, "greater than or equal to"),
            ({"noise": [-1e-5]}, "greater than or equal to"),
            ({"noise": []}, "at least 1"),
            ({"noise": [1e-5, 1e-5]}, "twice"),
            ({"belief": ""}, "at least 1"),
            ({"source": "x" * 1001}, "at most 1000"),
            ({"reference": "max pooling"}, "is not one of the values"),
            ({"name": "../up"}, "part of a file name"),
            ({"axes": "x"}, "Extra"),
        ],
    )
    def test_wrong_study_is_refused(self, changes, message):
        with pytest.raises(ValidationError, match=message):
            make_study(**changes)


class TestTable:
    def test_means_errors_and_factors(self):
        accuracy = make_accuracy({MAX: [10, 11, 12], AVERAGE: [5.1, 5.2, 5.3], DILATED: [5, 5.1, 4.9]})
        other = make_accuracy({MAX: [1.0, 1, 1], DILATED: [2.0]}, noise=0.1, error=0.01)
        stranger = make_accuracy({"pooled": [1.0]})
        table = table_of(make_study(), pd.concat([accuracy, other, stranger]))
        assert list(table) == STUDY
        assert table["value"].tolist() == ["Max pooling", "Average pooling", "Dilated"] * 2
        low = table[table["judged"]].set_index("value")
        assert low["rmse_over_crb"].tolist() == pytest.approx([11, 5.2, 5])
        small = math.hypot(0.1, 0.1 / math.sqrt(3))
        assert low["rmse_over_crb_err"].tolist() == pytest.approx(
            [math.hypot(0.1, 1 / math.sqrt(3)), small, small]
        )
        assert low["best"].tolist() == [False, False, True]
        assert low["factor"].tolist() == pytest.approx([2.2, 1.04, 1])
        error = 2.2 * math.hypot(low["rmse_over_crb_err"].iloc[0] / 11, low["rmse_over_crb_err"].iloc[2] / 5)
        assert low["factor_err"].iloc[0] == pytest.approx(error)
        high = table[~table["judged"]].set_index("value")
        assert high.loc["Max pooling", "best"]
        assert high.loc["Average pooling", "n_seeds"] == 0
        assert math.isnan(high.loc["Average pooling", "factor"])

    def test_few_seeds_are_worth_less(self):
        """The same factor and error are less significant if the error comes from two seeds only (Welch)."""
        two = table_of(make_study(), make_accuracy({MAX: [10, 12], DILATED: [5, 5.1]}, error=0.0))
        ten = table_of(make_study(), make_accuracy({MAX: [10, 12] * 5, DILATED: [5, 5.1] * 5}, error=0.0))
        assert two["n_sigma"].max() < 3 < 5 < ten["n_sigma"].max()
        # only bootstrap errors: exactly the normal deviate
        one = table_of(make_study(), make_accuracy({MAX: [5.5], DILATED: [5.0]}, error=0.1)).set_index(
            "value"
        )
        expected = math.log(1.1) / math.hypot(0.1 / 5.5, 0.1 / 5)
        assert one.loc["Max pooling", "n_sigma"] == pytest.approx(expected)

    def test_significance_is_calibrated(self):
        """Two equal values, three seeds each: about 5 per cent of studies have a 2-sigma difference."""
        import numpy as np

        rng = np.random.default_rng(3)
        study = make_study(values={"a": 1, "b": 2})
        found = []
        for _ in range(400):
            seeds = 10 + 0.1 * rng.standard_normal((2, 3))
            accuracy = make_accuracy({MAX: seeds[0], AVERAGE: seeds[1]}, error=0.0)
            found.append(table_of(study, accuracy)["n_sigma"].max())
        # two-sided 4.6 %; Welch is a little conservative for so few; 4 binomial deviations above
        assert 0.005 < np.mean(np.array(found) > 2) < 0.046 + 4 * math.sqrt(0.046 * 0.954 / 400)


class TestVerdict:
    def test_clear_and_unclear(self):
        accuracy = make_accuracy({MAX: [10, 10.2, 10.1], AVERAGE: [5.1, 5.2, 5.3], DILATED: [5, 5.1, 4.9]})
        study = make_study()
        text = verdict(study, table_of(study, accuracy))
        assert text == (
            "Dilated has the lowest RMSE at sigma = 1e-05 on exp_gauss, 5.00 ± 0.12 times the Cramer-Rao "
            "bound (3 seeds each). It is better than Max pooling (a factor 2.020 ± 0.052, 11.5 sigma). The "
            "difference is below 3 sigma for Average pooling (a factor 1.040 ± 0.033, 1.2 sigma). "
            "Significances take the small number of seeds into account (Welch's t)."
        )

    def test_each_judged_level_has_a_verdict(self):
        study = make_study(noise=[1e-2, 1e-5])
        low = make_accuracy({MAX: [10, 10.2], AVERAGE: [5.1, 5.2], DILATED: [5, 5.1]})
        high = make_accuracy({MAX: [1.0, 1.01], AVERAGE: [2.1, 2.2], DILATED: [math.nan] * 2}, 1e-2, 0.01)
        between = make_accuracy({MAX: [3, 3.1], DILATED: [2, 2.1]}, noise=1e-3)
        lost = {(DILATED, 1), (DILATED, 2)}
        table = table_of(study, pd.concat([low, high, between]))
        assert table.groupby("noise")["judged"].all().to_dict() == {1e-5: True, 1e-3: False, 1e-2: True}
        text = verdict(study, table)
        first, second = text.split("Max pooling has the lowest RMSE at sigma = 0.01 on exp_gauss")
        assert first.startswith("Dilated has the lowest RMSE at sigma = 1e-05 on exp_gauss")
        assert "Without a result: Dilated" in second
        assert text.count("Welch") == 1
        assert "0.001" not in text
        assert "(diverged)" in verdict(study, table_of(study, pd.concat([low, high]), lost))
        # A number instead of a list is one level.
        assert make_study(noise=1e-5).levels == [1e-5]
        assert make_study(noise=[1e-2, 1e-5]).levels == [1e-5, 1e-2]

    def test_one_seed_is_said(self):
        study = make_study()
        text = verdict(study, table_of(study, make_accuracy({MAX: [10], AVERAGE: [7], DILATED: [5]})))
        assert "(1 seed each)" in text
        assert "With one seed, the error is from the test galaxies only" in text
        mixed = make_accuracy({MAX: [10, 11], AVERAGE: [7], DILATED: [5, 5]})
        text = verdict(study, table_of(study, mixed))
        assert "(1 to 2 seeds each)" in text
        assert "With one seed for Average pooling, the error" in text

    def test_failures_are_said(self):
        accuracy = pd.concat(
            [
                make_accuracy({MAX: [10, 10]}, n_failed=4),
                make_accuracy({AVERAGE: [math.nan, math.nan]}, n_failed=1000),
            ]
        )
        study = make_study()
        text = verdict(study, table_of(study, accuracy))
        assert text.startswith("Only Max pooling has a result")
        assert "flagged and left out: 8 of 2000 for Max pooling." in text
        assert "Without a result: Average pooling (every estimate is flagged) and Dilated (not run)." in text

    def test_trainings_that_diverged_are_said(self):
        accuracy = make_accuracy({MAX: [10, 10.1, math.nan], AVERAGE: [math.nan] * 3, DILATED: [5, 5.1, 5]})
        study, lost = make_study(), {(MAX, 3), *((AVERAGE, seed) for seed in (1, 2, 3))}
        table = table_of(study, accuracy, lost)
        assert table["n_diverged"].tolist() == [1, 3, 0]
        text = verdict(study, table)
        assert "Trainings that diverged and are left out: 1 of Max pooling." in text
        assert "Without a result: Average pooling (diverged)." in text
        rows = [line for line in study_tex(study, table).splitlines() if "pooling &" in line]
        assert ["diverged" in row for row in rows] == [False, True]
        nothing = table_of(study, accuracy.assign(rmse_over_crb=math.nan), {(AVERAGE, 1)})
        text = verdict(study, nothing)
        assert "there is no verdict" in text
        assert "Average pooling (diverged)" in text

    def test_nothing_to_judge(self):
        study = make_study()
        empty = make_accuracy({MAX: [1]}).iloc[:0]
        table = table_of(study, empty)
        assert table["noise"].tolist() == [1e-5] * 3
        assert "there is no verdict" in verdict(study, table)
        elsewhere = table_of(study, make_accuracy({MAX: [10]}, noise=0.1))
        assert "there is no verdict" in verdict(study, elsewhere)

    def test_labels_survive_a_csv_file(self, tmp_path):
        study = make_study(axis="training.rate", values={"1e-3": 1e-3, "0.10": 0.1})
        table = table_of(study, make_accuracy({MAX: [10, 10.1], AVERAGE: [5, 5.1]}))
        table.to_csv(tmp_path / "study.csv", index=False)
        assert verdict(study, read_metrics(tmp_path / "study.csv")) == verdict(study, table)
        assert "better than 1e-3 (a factor" in verdict(study, table)

    def test_equal_values_are_one_network_and_have_the_factor_1(self):
        study = make_study()
        table = table_of(
            study, make_accuracy({MAX: [10, 11], DILATED: [12, 13]}), networks=(MAX, MAX, DILATED)
        )
        assert table["factor"].tolist()[:2] == [1.0, 1.0]
        assert table["n_sigma"].tolist()[1] == 0.0
        assert "Average pooling (a factor 1.00" in verdict(study, table)


class TestPowerLaw:
    def test_exponent_and_error_are_those_of_the_points(self):
        generator = np.random.default_rng(1)
        sizes = np.array([1e3, 3e3, 1e4, 3e4, 1e5])
        pulls, chi2 = [], []
        for _ in range(400):
            values = 40 * sizes**-0.3
            errors = 0.05 * values
            fit = power_law(sizes, values + errors * generator.standard_normal(5), errors)
            pulls.append((fit.exponent + 0.3) / fit.exponent_err)
            chi2.append(fit.chi2)
        assert abs(np.mean(pulls)) < 4 / np.sqrt(400)
        assert 0.75 < np.std(pulls) < 1.05  # below 1, because an error never shrinks where chi2 is small
        assert np.mean(chi2) == pytest.approx(3, abs=4 * np.sqrt(6 / 400))

    def test_points_that_scatter_more_than_their_errors_widen_the_error(self):
        sizes, values = [1, 2, 4, 8], [1.0, 0.5, 0.5, 0.2]
        one, other = (power_law(sizes, values, [error * v for v in values]) for error in (0.01, 0.02))
        assert one.exponent_err == pytest.approx(other.exponent_err)
        exact = power_law(sizes, [3 / s for s in sizes], [0.1] * 4)
        assert (exact.amplitude, exact.exponent, exact.n) == (pytest.approx(3), pytest.approx(-1), 4)

    def test_points_without_a_result_are_left_out(self):
        assert power_law([1, 2, 4], [1, math.nan, 2], [0.1, 0.1, 0.1]) is None
        assert power_law([1, 2, 4, 8], [1, math.nan, 2, 3], [0.1] * 4).n == 3
        assert power_law([1, 1, 4], [1, 1, 2], [0.1] * 3) is None

    def test_verdict(self):
        study = make_study(
            axis="training.galaxies",
            values={"100": 100, "400": 400, "1600": 1600, "endless": None},
            power_law=True,
        )
        names = ["net.1", "net.2", "net.3", "net.4"]
        results = dict(zip(names, ([8.0, 8.1], [4.0, 4.1], [2.0, 2.1], [1.0, 1.1])))
        said = verdict(study, table_of(study, make_accuracy(results, error=0.01), networks=names))
        assert "Over 3 values from 100 to 1600, the RMSE goes as training.galaxies to the power -0.49" in said
        few = {name: results[name] for name in names[1:]}
        assert "no power law is fitted" in verdict(study, table_of(study, make_accuracy(few), networks=names))

    @pytest.mark.parametrize(
        "changes",
        [{"axis": None, "values": {"a": {}, "b": {}}}, {"values": {"1": 1, "2": 2, "all": None, "none": 0}}],
    )
    def test_a_law_needs_three_numbers(self, changes):
        with pytest.raises(ValidationError, match="power_law: a fit needs an axis with at least 3"):
            make_study(power_law=True, **changes)
