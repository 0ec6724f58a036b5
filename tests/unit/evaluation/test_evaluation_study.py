from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import norm

from shearbench.evaluation.beliefs import OUTCOMES, in_words, summary
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


def table_of(study, accuracy, diverged=(), networks=(MAX, AVERAGE, DILATED), **more):
    """Return the table of a study whose values have these networks."""
    return study_table(study, dict(zip(study.values, networks)), accuracy, diverged, **more)


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
            ({"reference": {"Dilated": "max pooling"}}, "is not one of the values"),
            ({"expects": {"max pooling": "helps"}}, "expects: 'max pooling' is not one of the values"),
            ({"expects": {"Max pooling": "helps"}}, "is a reference"),
            ({"expects": {"Dilated": "wins"}}, "'helps', 'hurts' or 'makes no difference'"),
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
            "difference is below 3 sigma for Average pooling (a factor 1.040 ± 0.033, 1.2 sigma; "
            "only more test galaxies would separate them). "
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
        assert table["effect"].tolist()[:2] == [1.0, 1.0]
        assert "It is the same network as Max pooling." in verdict(study, table)


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


class TestComparison:
    def test_the_same_galaxies_make_a_difference_more_certain(self):
        """The galaxies scatter both ratios alike: of the difference, only what they do not share is left."""
        rng = np.random.default_rng(1)
        accuracy = make_accuracy({MAX: [10, 10.1, 10.2], AVERAGE: [11, 11.1, 11.2]}, error=1.0)
        common = np.exp(0.1 * rng.standard_normal(400))
        own = {MAX: np.exp(0.01 * rng.standard_normal(400)), AVERAGE: np.ones(400)}
        resampled = {
            (network, seed, 1e-5): 10 * common * own[network] for network in own for seed in (1, 2, 3)
        }
        study = make_study(values={"a": 1, "b": 2})
        added = table_of(study, accuracy).set_index("value")
        paired = table_of(study, accuracy, resampled=resampled).set_index("value")
        assert added.loc["b", "n_sigma"] < 1 < 3 < paired.loc["b", "n_sigma"]
        assert paired.loc["b", "factor"] == added.loc["b", "factor"] == pytest.approx(1.099, abs=1e-3)
        scatter = math.hypot(0.1 / 10.1, 0.1 / 11.1) / math.sqrt(3)
        expected = paired.loc["b", "factor"] * math.hypot(scatter, 0.01)
        assert paired.loc["b", "factor_err"] == pytest.approx(expected, rel=0.1)

    def test_the_effect_is_that_of_the_reference(self):
        accuracy = make_accuracy({MAX: [10, 11], AVERAGE: [5, 5.1], DILATED: [20, 21]}, error=0.0)
        table = table_of(make_study(reference="Average pooling"), accuracy).set_index("value")
        assert set(table["reference"]) == {"Average pooling"}
        assert table.loc["Max pooling", "effect"] == pytest.approx(10.5 / 5.05)
        first = table_of(make_study(), accuracy).set_index("value")
        assert set(first["reference"]) == {"Max pooling"}
        own = table_of(make_study(reference={"Dilated": "Average pooling"}), accuracy).set_index("value")
        assert own["reference"].tolist() == ["Max pooling", "Average pooling", "Average pooling"]
        assert own.loc["Dilated", "effect"] == pytest.approx(20.5 / 5.05)
        assert summary([own.reset_index()])["value"].tolist() == ["Dilated"]
        assert first.loc["Average pooling", "effect"] == pytest.approx(5.05 / 10.5)
        assert first.loc["Average pooling", "effect_n_sigma"] < 0 < first.loc["Dilated", "effect_n_sigma"]
        p = table.loc["Max pooling", "effect_p"]
        assert p == pytest.approx(2 * norm.sf(table.loc["Max pooling", "effect_n_sigma"]))
        # One seed says nothing on the scatter between trainings.
        one = table_of(make_study(), make_accuracy({MAX: [10, 11], AVERAGE: [5]})).set_index("value")
        assert math.isnan(one.loc["Average pooling", "effect_p"])
        assert math.isnan(one.loc["Average pooling", "effect_seeds_needed"])

    @pytest.mark.parametrize("difference", [0.02, 0.1, 0.4])
    def test_with_the_seeds_needed_the_difference_would_be_seen(self, difference):
        def table(k):
            # k seeds of the same scatter
            z = norm.ppf((np.arange(k) + 0.5) / k)
            z = 0.05 * z / z.std(ddof=1)
            results = {MAX: 10 * (1 + z), AVERAGE: 10 * (1 + difference) * (1 + z)}
            study = make_study(values={"a": 1, "b": 2})
            return table_of(study, make_accuracy(results, error=0.0)).set_index("value").loc["b"]

        needed = int(table(3)["seeds_needed"])
        assert needed > 2
        assert table(needed)["n_sigma"] >= 3 > table(needed - 1)["n_sigma"]
        words = verdict(
            study := make_study(values={"a": 1, "b": 2}),
            table_of(study, make_accuracy({MAX: [9.9, 10.1], AVERAGE: [10.1, 10.3]}, error=0.0)),
        )
        assert re.search(r"sigma; \d+ seeds each would separate them\)", words)


ratios = st.lists(st.floats(0.9, 50.0), min_size=1, max_size=4)


@st.composite
def results(draw):
    """Draw the ratios of the seeds of some networks; some diverge."""
    names = [f"convnet.{k}" for k in range(draw(st.integers(2, 6)))]
    found = {name: draw(ratios) for name in names}
    for name in names:
        if draw(st.integers(0, 5)) == 0:
            found[name] = [math.nan] * len(found[name])
    return found


@settings(max_examples=20, deadline=None)
@given(results(), st.randoms(use_true_random=False))
def test_the_order_of_values_changes_no_outcome(found, random):
    labels = {f"value {k}": name for k, name in enumerate(found)}
    shuffled = list(labels)
    random.shuffle(shuffled)
    tables = []
    for order in (list(labels), shuffled):
        study = make_study(values=dict.fromkeys(order, 1), reference="value 0")
        networks = {label: labels[label] for label in order}
        accuracy, lost = make_accuracy(found), {(n, 1) for n, r in found.items() if math.isnan(r[0])}
        tables.append((study, study_table(study, networks, accuracy, lost)))
    assert verdict(*tables[0]) == verdict(*tables[1])
    one, other = (summary([table]) for _, table in tables)
    pd.testing.assert_frame_equal(one, other)


@settings(max_examples=20, deadline=None)
@given(st.lists(results(), min_size=1, max_size=3))
def test_the_correction_for_many_comparisons_only_takes_discoveries_away(found):
    tables = []
    for k, one in enumerate(found):
        study = make_study(name=f"s{k}", values=dict.fromkeys(one, 1))
        tables.append(study_table(study, {name: name for name in one}, make_accuracy(one, error=0.0)))
    table = summary(tables)
    assert len(table) == sum(len(one) - 1 for one in found)
    assert set(table["outcome"]) <= set(OUTCOMES)
    known = table[table["p"].notna()]
    assert (known["q"] >= known["p"]).all()
    said = table[table["outcome"].isin(["helps", "hurts"])]
    assert (said["p"] < 0.05).all()
    assert ((said["effect"] < 1) == (said["outcome"] == "helps")).all()
    assert (table.loc[table["effect"].isna(), "outcome"].isin(["no result", "diverged"])).all()


@settings(max_examples=10, deadline=None)
@given(ratios)
def test_equal_values_have_the_effect_1(seeds):
    study = make_study(values={"a": 1, "b": 1})
    table = study_table(study, {"a": MAX, "b": MAX}, make_accuracy({MAX: seeds}))
    assert table["effect"].tolist() == table["factor"].tolist() == [1.0, 1.0]
    assert summary([table])["outcome"].tolist() == ["same network"]


def test_a_value_that_diverged_is_an_outcome_in_words():
    accuracy = make_accuracy({MAX: [10, 10.1, 9.9], AVERAGE: [20, 20.1, math.nan], DILATED: [math.nan] * 3})
    lost = {(AVERAGE, 3), *((DILATED, seed) for seed in (1, 2, 3))}
    table = summary([table_of(make_study(), accuracy, lost)])
    words = dict(zip(table["value"], map(in_words, table.to_dict("records"))))
    assert words == {
        "Average pooling": "hurts, diverged in 1 of 3 seeds",
        "Dilated": "diverged in 3 of 3 seeds",
    }
