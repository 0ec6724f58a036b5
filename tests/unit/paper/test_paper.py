from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shearbench.config.reading import load
from shearbench.config.studies import Studies
from shearbench.errors import ContractError
from shearbench.evaluation.accuracy import ACCURACY
from shearbench.evaluation.metrics import read_metrics
from shearbench.evaluation.psf_leakage import PSF_LEAKAGE
from shearbench.evaluation.rounding import MISSING, round_significant, round_to_error, shown
from shearbench.evaluation.shear_bias import SHEAR_BIAS
from shearbench.evaluation.study import study_table
from shearbench.evaluation.throughput import throughput, throughput_table
from shearbench.figures.catalogue import entries
from shearbench.paper.captions import caption, plain
from shearbench.paper.document import main_tex
from shearbench.paper.latex import escape, longtable, number, power_of_ten
from shearbench.paper.manifest import git_state, machine, make_manifest, verify, write_manifest
from shearbench.paper.methods import methods_tex
from shearbench.paper.numbers import collect_numbers, macro_names, macros_tex, numbers_json
from shearbench.paper.tables import accuracy_tex, estimators_tex, shear_bias_tex, study_tex, throughput_tex
from shearbench.plan.run import Run
from shearbench.studies import Study

ROOT = Path(__file__).parents[3]

LEVELS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
CONFIG = load(ROOT / "config/config.yaml", ROOT / "config/sersic.yaml")
METHODS = methods_tex(Run(CONFIG, Studies({}, {}, {}, {}), {"ngmix-exp": "not here"}).described)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-300, max_value=1e300)


class TestRounding:
    @given(finite, positive)
    def test_error_has_two_digits_and_the_value_its_place(self, value, error):
        rounded, rounded_error = round_to_error(value, error)
        place = rounded_error.as_tuple().exponent
        assert rounded.as_tuple().exponent == place
        assert len(rounded_error.as_tuple().digits) == 2
        assert rounded_error.as_tuple().digits[0] > 0
        half = Decimal(5).scaleb(place - 1)
        assert abs(rounded_error - Decimal(repr(error))) <= half
        assert abs(_exactly(rounded, value)) <= half

    @given(finite, st.integers(1, 17))
    def test_significant_digits(self, value, digits):
        rounded = round_significant(value, digits)
        if value == 0:
            assert rounded == 0
            return
        assert len(rounded.as_tuple().digits) == digits
        assert abs(_exactly(rounded, value)) <= Decimal(5).scaleb(rounded.adjusted() - digits)
        if math.isfinite(float(rounded)):
            assert round_significant(float(rounded), digits) == rounded

    @given(st.floats(-1e12, 1e12), st.floats(1e-12, 1e12), st.booleans())
    def test_text_reads_back(self, value, error, latex):
        text = shown(value, error, latex=latex)
        plain = text.replace(r" \pm ", " ± ").replace(r" \times 10^{", "e").replace("}", "")
        body, _, power = plain.partition(")e") if plain.startswith("(") else (plain, "", "0")
        parts = [Decimal(part).scaleb(int(power)) for part in body.strip("(").split(" ± ")]
        assert parts == list(round_to_error(value, error))

    @given(st.floats(-1e12, 1e12), st.floats(1e-12, 1e12), st.integers(-9, 9))
    def test_text_in_given_units(self, value, error, power):
        parts = [Decimal(part).scaleb(power) for part in shown(value, error, power=power).split(" ± ")]
        assert parts == list(round_to_error(value, error))

    @given(finite)
    def test_text_without_error_is_short(self, value):
        assert len(shown(value)) <= len("-1.23e-308")
        assert abs(Decimal(shown(value)) - Decimal(repr(value))) <= Decimal("0.005") * abs(
            Decimal(repr(value))
        )

    @pytest.mark.parametrize(
        ("value", "error", "plain", "latex"),
        [
            (1.2345e-4, 1.2e-6, "(1.234 ± 0.012)e-04", r"(1.234 \pm 0.012) \times 10^{-4}"),
            (2.1, 0.3, "2.10 ± 0.30", r"2.10 \pm 0.30"),
            (0.1, 0.0996, "0.10 ± 0.10", r"0.10 \pm 0.10"),
            (1234, 99.6, "1230 ± 100", r"1230 \pm 100"),
            (-1e-9, 1e-2, "0.000 ± 0.010", r"0.000 \pm 0.010"),
            (99999, None, "1.00e+05", r"1.00 \times 10^{5}"),
            (0.5, math.nan, "0.500", "0.500"),
            (0.5, 0.0, "0.500", "0.500"),
            (math.nan, 1.0, "--", "--"),
            (math.inf, None, "--", "--"),
            (None, None, "--", "--"),
        ],
    )
    def test_examples(self, value, error, plain, latex):
        assert shown(value, error) == plain
        assert shown(value, error, latex=True) == latex


def _exactly(rounded, value):
    from decimal import Context, localcontext

    with localcontext(Context(prec=800)):
        return rounded - Decimal(repr(value))


class TestLatex:
    @given(st.text())
    def test_escaped_text_has_no_active_character(self, text):
        left = escape(text)
        symbols = r"\$(\\(pm|times|sigma|varphi|langle|rangle|hat g)|-)\$"
        for command in (r"\\text[a-z]+\{\}", r"\\[{}&%$#_]", symbols):
            left = re.sub(command, "", left)
        assert not set(left) & set('\\{}&%$#_~^<>|"\n')
        assert all(ord(char) < 256 for char in left)

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (1e-5, "$10^{-5}$"),
            (3e-4, r"$3 \times 10^{-4}$"),
            (0.1, "$10^{-1}$"),
            (1.0, "$1$"),
            (25.0, "$25$"),
            (2.5e-3, r"$2.5 \times 10^{-3}$"),
        ],
    )
    def test_power_of_ten(self, value, text):
        assert power_of_ten(value) == text

    def test_table(self):
        text = longtable(
            "lr", [["a", "b"]], ["group", ["1", number(2.0, 0.1)], None, ["3", "--"]], "cap", "tab:x"
        )
        assert text.count(r"\toprule") == text.count(r"\endhead") * 2 == 2
        assert r"\multicolumn{2}" in text
        assert r"1 & $2.00 \pm 0.10$ \\" in text


@pytest.fixture
def run():
    """Return metrics of two populations, with names and labels that LaTeX must escape."""
    rng = np.random.default_rng(0)
    estimators = [
        ("ngmix-exp", "NGMix exp", "ngmix", -1),
        ("hsm_100%", r"HSM & co_1 #2 {x} \y é σ", "hsm", -1),
        ("dilated", "dilated", "network", 1),
        ("dilated", "dilated", "network", 2),
    ]
    accuracy, bias, leakage = [], [], []
    for population in ("exp_gauss", "sersic_moffat"):
        for noise in LEVELS:
            for i, (name, label, kind, seed) in enumerate(estimators):
                crb = 11.5 * noise
                who = {"population": population, "noise": noise, "estimator": name}
                who |= {"label": label, "kind": kind, "seed": seed}
                ratio = (1 + i) * (1 + 0.05 * rng.standard_normal())
                values = {key: 1e-3 * rng.standard_normal() for key in ACCURACY}
                accuracy.append(
                    values
                    | who
                    | {
                        "n": 2000,
                        "n_failed": 3 * i,
                        "snr": 0.2 / noise,
                        "rmse": ratio * crb,
                        "rmse_err": 0.02 * crb,
                        "crb": crb,
                        "prior_bound": min(crb, 0.2),
                        "rmse_over_crb": ratio,
                        "rmse_over_crb_err": 0.021,
                        "coverage68": math.nan if i == 1 else 0.681,
                    }
                )
                if noise > 2e-3:
                    continue
                for calibration in ("none", "response", "simulated"):
                    values = {key: 1e-3 * rng.standard_normal() for key in SHEAR_BIAS}
                    values |= {f"{key}_err": 3.3e-5 for key in ("m1", "m2", "c1", "c2")}
                    values |= {"shape_noise": 0.2134, "shape_noise_err": 0.0022}
                    values |= {"n_eff": 0.931, "n_eff_err": 0.012}
                    more = {"calibration": calibration, "n_pairs": 500, "n_failed": i}
                    bias.append(values | who | more)
                    alpha = {"alpha1": 2.5e-3 * (1 + i), "alpha2": -1.5e-3, "alpha1_err": 4e-5}
                    leakage.append(alpha | {"alpha2_err": 4e-5} | who | more)
    table = pd.DataFrame(accuracy, columns=ACCURACY)
    broken = (table["estimator"] == "hsm_100%") & (table["noise"] == 0.1)
    table.loc[broken, ["rmse", "rmse_err", "rmse_over_crb", "rmse_over_crb_err"]] = math.nan
    table.loc[broken, "n_failed"] = 2000
    study = Study(
        name="down_sampling",
        question="Does 50% pooling & striding_2 set the floor?",
        base="dilated",
        axis="options.downsampling",
        values={"max_pooling": "max", "dilated": "dilated"},
        seeds=(1, 2),
    )
    networks = {"max_pooling": "convnet.1", "dilated": "convnet.2"}
    ours = table[table["estimator"] == "dilated"]
    ours = pd.concat(
        [
            ours.assign(estimator="convnet.1", rmse_over_crb=8 * ours["rmse_over_crb"]),
            ours.assign(estimator="convnet.2"),
        ]
    )
    costs = throughput_table(
        [
            throughput(
                "exp_gauss", "simulate", "galsim", stamps=2000, seconds=1.5, kind="simulation", peak_mb=321.4
            ),
            throughput(
                "exp_gauss", "measure", "ngmix-exp", stamps=2000, seconds=9.0, kind="ngmix", label="NGMix exp"
            ),
        ]
    )
    return {
        "accuracy": table,
        "shear_bias": pd.DataFrame(bias, columns=SHEAR_BIAS),
        "psf_leakage": pd.DataFrame(leakage, columns=PSF_LEAKAGE),
        "throughput": costs,
        "studies": [(study, study_table(study, networks, ours))],
    }


def with_ensemble(shear_bias):
    """Add an estimator without shapes of single galaxies, at one noise level."""
    at = (shear_bias["estimator"] == "ngmix-exp") & (shear_bias["population"] == "exp_gauss")
    rows = shear_bias[at & (shear_bias["noise"] == 1e-5)]
    rows = rows.assign(estimator="anacal-fpfs", label="FPFS", kind="anacal", n_pairs=40, n_failed=3)
    return pd.concat([shear_bias, rows], ignore_index=True)


class TestTables:
    def test_accuracy(self, run):
        text = accuracy_tex(run["accuracy"])
        assert text.count(r"\begin{longtable}") == 2
        lines = [line for line in text.splitlines() if line.startswith("dilated")]
        mean = run["accuracy"].query(
            "estimator == 'dilated' and noise == 1e-5 and population == 'exp_gauss'"
        )["rmse"]
        assert f"{mean.mean() / 1e-4:.2f}" in lines[0]
        assert r"Cram\'er--Rao bound & $1.15$" in text
        assert "2000 test galaxies" in text

    def test_populations_of_similar_names_have_labels_of_their_own(self, run):
        accuracy, shear_bias, leakage = (
            pd.concat([run[table].assign(population=name) for name in ("a_b", "a-b", "A-b")])
            for table in ("accuracy", "shear_bias", "psf_leakage")
        )
        keys = ["population", "noise", "estimator", "calibration", "seed"]
        shear_bias, leakage = shear_bias.drop_duplicates(keys), leakage.drop_duplicates(keys)
        accuracy = accuracy.drop_duplicates(["population", "noise", "estimator", "seed"])
        both = estimators_tex(accuracy, shear_bias, leakage)
        texts = [accuracy_tex(accuracy), shear_bias_tex(shear_bias), both]
        found = re.findall(r"\\label\{(.*?)\}", "\n".join(texts))
        assert len(found) == len(set(found)) == 9

    def test_estimators_counts_failures(self, run):
        text = estimators_tex(run["accuracy"], run["shear_bias"], run["psf_leakage"])
        assert "2000/2000" in text
        (line, *_) = [row for row in text.splitlines() if row.startswith("dilated")]
        assert r"$-1.500 \pm 0.040$" in line  # alpha2, in units of 1e-3
        assert "15/4000" in text  # two seeds
        assert "68.1" in text
        assert "HSM \\& co\\_1 \\#2 \\{x\\} \\textbackslash{}y é $\\sigma$" in text

    def test_estimators_that_answer_for_ensembles_have_a_bias_alone(self, run):
        text = estimators_tex(run["accuracy"], with_ensemble(run["shear_bias"]), run["psf_leakage"])
        (line,) = [row for row in text.splitlines() if row.startswith("FPFS")]
        assert line.endswith(f"& {MISSING} & {MISSING} & 3/43 \\\\")
        assert line.count("$") >= 8

    def test_shear_bias_has_both_calibrations(self, run):
        text = shear_bias_tex(run["shear_bias"])
        assert text.count("& raw &") == text.count("& calibrated &") == 18

    def test_study(self, run, tmp_path):
        study, table = run["studies"][0]
        text = study_tex(study, table)
        table.to_csv(tmp_path / "study.csv", index=False)
        assert study_tex(study, read_metrics(tmp_path / "study.csv")) == text
        assert "best" in text
        assert r"50\% pooling \& striding\_2" in text
        assert "lowest RMSE" in text

    def test_estimators_with_the_same_label_stay_apart(self, run):
        same = run["accuracy"].assign(label="one")
        assert accuracy_tex(same).count("\none & ") == 6


class TestNumbers:
    def test_macros_and_json_agree(self, run):
        found = collect_numbers(**run)
        content = json.loads(numbers_json(found))
        macros = re.findall(r"^\\newcommand\{\\([A-Za-z]+)\}\{(.*)\}$", macros_tex(found), re.M)
        assert [name for name, _ in macros] == list(content)
        assert len(content) == len(found)
        entry = content["RmseOverBoundExpGaussDilatedSigmaOneEMinusFive"]
        rows = run["accuracy"].query("estimator == 'dilated' and noise == 1e-5 and population == 'exp_gauss'")
        assert entry["value"] == pytest.approx(rows["rmse_over_crb"].mean())
        assert entry["source"] == {
            "table": "metrics/accuracy.csv",
            "population": "exp_gauss",
            "estimator": "dilated",
            "noise": 1e-5,
            "seeds": 2,
            "column": "rmse_over_crb",
        }
        assert (
            dict(macros)["RmseOverBoundExpGaussDilatedSigmaOneEMinusFive"]
            == rf"\ensuremath{{{entry['text']}}}"
        )
        assert content["CalibratedMOneExpGaussNgmixExpSigmaOneEMinusThree"]["error"] == 3.3e-5
        assert content["FailedExpGaussDilatedSigmaOneEMinusOne"]["text"] == "15"
        assert content["RateMeasureExpGaussNgmixExp"]["value"] == pytest.approx(2000 / 9)
        assert content["VerdictDownSampling"]["value"].startswith("dilated has the lowest RMSE")
        assert content["StudyFactorDownSamplingMaxPoolingSigmaOneEMinusFive"]["value"] == pytest.approx(
            8, rel=0.1
        )

    def test_what_has_no_value_is_null_and_prints_as_a_dash(self, run):
        found = collect_numbers(**run)
        name = "RmseExpGaussHsmOneZeroZeroSigmaOneEMinusOne"
        assert json.loads(numbers_json(found))[name]["value"] is None
        assert rf"\newcommand{{\{name}}}{{--}}" in macros_tex(found)

    def test_names_that_fall_together_are_spelled_and_quote_their_own_values(self, run):
        accuracy = run["accuracy"].copy()
        networks = accuracy[accuracy["estimator"] == "dilated"]
        mlp = [networks.assign(estimator=name, label=name) for name in ("mlp1", "mlp-1")]
        mlp[1]["rmse_over_crb"] *= 7
        both = pd.concat([accuracy, *mlp])
        numbers = collect_numbers(both, run["shear_bias"], run["psf_leakage"], run["throughput"])
        content = json.loads(numbers_json(numbers))
        assert len(content) == len(numbers)
        sources = {name: entry["source"].get("estimator") for name, entry in content.items()}
        plain = [name for name, estimator in sources.items() if estimator not in ("mlp1", "mlp-1")]
        assert not any("Exact" in name for name in plain)
        macros = macro_names(item.key for item in numbers)
        text = main_tex("quick", [], [], both, macros)
        for name in ("mlp1", "mlp-1"):
            quoted = re.search(rf"\b{name} \\(RmseOverBound|Exact)(\w+)", text)
            assert sources[quoted[1] + quoted[2]] == name

    @given(
        st.sets(
            st.one_of(
                st.tuples(
                    st.sampled_from(["Rmse", "RmseOverBound"]),
                    st.text("abAB1-_", min_size=1, max_size=3),
                    st.text("abAB1-_", min_size=1, max_size=3),
                    st.sampled_from([1e-5, 1e-2, 1.0000001e-2]),
                ),
                st.tuples(st.just("StudyRatio"), st.text(max_size=4), st.text(max_size=4)),
                st.tuples(
                    st.sampled_from(["Exact", "Verdict", "ExactCapitalr"]), st.text("abT-", max_size=3)
                ),
            ),
            max_size=30,
        )
    )
    def test_no_two_numbers_share_a_macro(self, keys):
        names = macro_names(keys)
        assert set(names) == keys
        assert len(set(names.values())) == len(keys)
        assert all(name.isascii() and name.isalpha() for name in names.values())
        # One that is alone has the name that is easy to read, whichever others there are.
        for key, name in names.items():
            alone = macro_names([key])[key]
            assert name == alone or name.startswith("Exact")

    def test_a_number_twice_is_an_error(self, run):
        twice = pd.concat([run["throughput"], run["throughput"]])
        with pytest.raises(ValueError, match="twice, such as"):
            collect_numbers(run["accuracy"], run["shear_bias"], run["psf_leakage"], twice)

    @pytest.mark.parametrize(
        ("parts", "name"),
        [
            (
                ("Rmse", "exp_gauss", "ngmix-coellip3", 1e-5),
                "RmseExpGaussNgmixCoellipThreeSigmaOneEMinusFive",
            ),
            (("Snr", 0.1), "SnrSigmaOneEMinusOne"),
            (("Snr", 3.2e-4), "SnrSigmaThreePointTwoEMinusFour"),
            (("Snr", 25.0), "SnrSigmaTwoPointFiveEOne"),
            (("D4CNN",), "DFourCNN"),
        ],
    )
    def test_macro_name(self, parts, name):
        assert macro_names([parts]) == {parts: name}


def captions(accuracy, shear_bias):
    return {
        name: caption(entry.caption, entry.reads, accuracy, shear_bias) for name, entry in entries().items()
    }


class TestDocument:
    def test_captions_quote_the_run(self, run):
        texts = captions(run["accuracy"], run["shear_bias"])
        assert texts["accuracy"].startswith("Error against noise. Root mean square error")
        assert "2000 test galaxies of exp_gauss (median S/N 2e+04 to 2)" in texts["accuracy"]
        assert "500 galaxies of exp_gauss at sigma = 1e-05, with an error of m between" in texts["shear_bias"]
        assert "Not shown" not in texts["accuracy"]
        assert "sigma = 1e-05" in texts["trends"]
        nothing = captions(run["accuracy"].iloc[:0], run["shear_bias"].iloc[:0])
        assert set(nothing) == set(texts)

    def test_captions_are_plain_text_that_latex_prints(self, run):
        for text in captions(run["accuracy"], run["shear_bias"]).values():
            assert not re.search(r"\*\*|``|\\|\n|  |[{}]", text)
            assert "?" not in escape(text.replace("?", ""))
        assert plain("**A b.** |c| *all* of\n``d`` \\|e\\| 2 * 3 * 4") == "A b. |c| all of d |e| 2 * 3 * 4"

    def test_what_answers_for_ensembles_is_named(self, run):
        texts = captions(run["accuracy"], with_ensemble(run["shear_bias"]))
        assert "ensembles only: FPFS" in texts["accuracy"]
        assert "a response that they measure themselves: FPFS" in texts["shear_bias"]
        assert "(40 for the slowest estimator)" in texts["shear_bias"]

    def test_every_macro_it_uses_is_defined(self, run):
        numbers = collect_numbers(**run)
        macros = macro_names(item.key for item in numbers)
        text = main_tex(
            "quick", [], [], run["accuracy"], macros, ["down_sampling"], METHODS, run["shear_bias"]
        )
        used = set(re.findall(r"\\((?:Rmse|Snr|Bound|Failed|Raw|Calibrated|Verdict)[A-Za-z]+)", text))
        assert {"Rmse", "Raw", "Calib"} <= {name[:n] for name in used for n in (3, 4, 5)}
        defined = set(re.findall(r"newcommand\{\\(\w+)\}", macros_tex(numbers)))
        assert len(used) > 10
        assert used <= defined

    @pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
    def test_compiles(self, run, tmp_path):
        paper, tables = tmp_path / "paper", tmp_path / "tables"
        paper.mkdir()
        tables.mkdir()
        study, table = run["studies"][0]
        made = {
            "accuracy": accuracy_tex(run["accuracy"]),
            "estimators": estimators_tex(run["accuracy"], run["shear_bias"], run["psf_leakage"]),
            "shear_bias": shear_bias_tex(run["shear_bias"]),
            "throughput": throughput_tex(run["throughput"]),
            "study_down_sampling": study_tex(study, table),
        }
        for name, text in made.items():
            (tables / f"{name}.tex").write_text(text, encoding="utf-8")
        numbers = collect_numbers(**run)
        # a file that uses every macro, too
        macros = macro_names(item.key for item in numbers)
        uses = "\n\n".join(rf"\{name}" for name in macros.values())
        (tables / "all.tex").write_text(uses, encoding="utf-8")
        (paper / "macros.tex").write_text(macros_tex(numbers), encoding="utf-8")
        import matplotlib.figure

        matplotlib.figure.Figure(figsize=(2, 1)).savefig(paper / "figure_1.pdf")
        figures = [("figure_1.pdf", text) for text in captions(run["accuracy"], run["shear_bias"]).values()]
        paths = [f"../tables/{name}" for name in [*made, "all"]]
        text = main_tex(
            "quick_1", figures, paths, run["accuracy"], macros, [study.name], METHODS, run["shear_bias"]
        )
        (paper / "main.tex").write_text(text, encoding="utf-8")
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"],
            cwd=paper,
            capture_output=True,
            text=True,
            errors="replace",
        )
        assert done.returncode == 0, done.stdout[-3000:]
        # boxes that stick out by more than 3 pt would be seen
        assert all(float(width) < 3 for width in re.findall(r"Overfull \\hbox \(([0-9.]+)pt", done.stdout))


class TestMethods:
    def test_the_sentences_say_what_the_configuration_has(self):
        config = load(ROOT / "config/config.yaml")
        changes = {"50%_&": {"base": "exp_gauss", "flux": 2.0}}
        described = {
            **Run(config, Studies({}, {}, {}, {})).described,
            "labels": ["a_b & c"],
            "seeds": [1, 2, 3],
        }
        plain = dict(described["populations"]["exp_gauss"], flux=[2.0, 2.0])
        described["populations"] = dict.fromkeys(changes, plain)
        text = "\n".join(methods_tex(described))
        assert r"\texttt{50\%\_\&}" in text
        assert (
            "and fluxes of 2; the PSF is a Gaussian with a full width at half maximum of 0.6 arcsec" in text
        )
        galaxies = config.galaxies
        for name, split in (("train", "galaxies for training"), ("test", "for the test")):
            assert f"{getattr(galaxies, name)} {split}" in text
        assert "with the seeds 1, 2 and 3." in text
        assert r"networks: a\_b \& c." in text
        assert f"{config.variants['refined'].training.epochs} epochs" in text
        assert rf"\pm {config.shear_test.shear:g}$" in text
        # A slow estimator measures fewer galaxies.
        assert "hsm" not in text.lower()
        assert ": 200" in text

    def test_what_is_not_there_is_not_spoken_of(self):
        run = Run(CONFIG.model_copy(update={"variants": {}, "estimators": {}}), Studies({}, {}, {}, {}))
        text = "\n".join(methods_tex(run.described))
        assert "network" not in text
        assert "Left out" not in text
        assert r"\texttt{ngmix-exp}" in "\n".join(METHODS)


class TestManifest:
    def test_written_and_verified(self, tmp_path):
        results = tmp_path / "quick"
        (results / "metrics").mkdir(parents=True)
        (results / "metrics" / "a.csv").write_text("1\n")
        (results / "b.txt").write_text("two")
        manifest = make_manifest(
            [results / "b.txt", results / "metrics" / "a.csv"], results, {"run": 1, "networks": [1, 2]}
        )
        path = results / "manifest.json"
        write_manifest(path, manifest)
        assert json.loads(path.read_text()) == manifest
        assert list(manifest["outputs"]) == ["b.txt", "metrics/a.csv"]
        assert manifest["outputs"]["b.txt"]["bytes"] == 3
        assert manifest["packages"]["numpy"] == np.__version__
        assert verify(path) == []
        (results / "b.txt").write_text("2")
        (results / "metrics" / "a.csv").unlink()
        problems = verify(path)
        assert problems[0].startswith("b.txt: SHA-256 is ")
        assert problems[1] == "metrics/a.csv: missing"

    def test_a_folder_of_the_run_may_be_a_link(self, tmp_path):
        results, scratch = tmp_path / "quick", tmp_path / "scratch"
        results.mkdir()
        scratch.mkdir()
        (results / "stamps").symlink_to(scratch)
        (scratch / "0.h5").write_text("pixels")
        manifest = make_manifest([results / "stamps/0.h5"], results, {})
        assert list(manifest["outputs"]) == ["stamps/0.h5"]
        write_manifest(results / "manifest.json", manifest)
        assert verify(results / "manifest.json") == []

    def test_output_must_be_there_and_in_the_run(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            make_manifest([tmp_path / "none"], tmp_path, {})
        (tmp_path / "a").write_text("")
        with pytest.raises(ValueError, match="subpath"):
            make_manifest([tmp_path / "a"], tmp_path / "quick", {})

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"outputs": 1}', '{"outputs": {"a": {}}}'])
    def test_no_manifest(self, tmp_path, content):
        path = tmp_path / "manifest.json"
        path.write_text(content)
        with pytest.raises(ContractError, match=r"manifest\.json"):
            verify(path)

    @pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
    def test_git(self, tmp_path, monkeypatch):
        checkout = tmp_path / "a checkout"
        file = checkout / "src/shearbench/__init__.py"
        file.parent.mkdir(parents=True)
        file.write_text("1")

        def git(*arguments, folder=checkout):
            command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder), *arguments]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

        def why_none(state):
            assert state["commit"] is state["dirty"] is None
            return state["reason"]

        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert "not a git repository" in why_none(git_state(file))
        # The code lies in a folder of another project, which does not track it.
        git("init", folder=tmp_path)
        git("commit", "--allow-empty", "-m", "another", folder=tmp_path)
        assert f"is not part of the repository {tmp_path}" in why_none(git_state(file))
        git("init")
        assert "is not part of the repository" in why_none(git_state(file))
        git("add", "src")
        git("commit", "-m", "one")
        commit = {"commit": git("rev-parse", "HEAD"), "reason": None}
        monkeypatch.chdir(tmp_path)  # a run that is started elsewhere
        monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # or by a hook of another repository
        assert git_state(file) == {**commit, "dirty": False}
        (checkout / "notes.txt").write_text("")
        assert git_state(file) == {**commit, "dirty": False}
        (checkout / "src/new.py").write_text("")
        assert git_state(file) == {**commit, "dirty": True}
        (checkout / "src/new.py").unlink()
        file.write_text("2")
        assert git_state(file) == {**commit, "dirty": True}
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        assert "dubious ownership" in why_none(git_state(file))
        monkeypatch.setenv("PATH", str(tmp_path))
        assert why_none(git_state(file)) == "git is not installed"

    def test_machine(self):
        found = machine()
        assert found["cores"] >= 1
        assert found["memory_bytes"] > 1e8
        assert isinstance(found["gpus"], list)
