"""The plan of a run: its names, counts and files, the digests of its results, the origins of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from shearbench.config.plain_yaml import read_file
from shearbench.config.reading import load, resolve
from shearbench.config.studies import Studies, plan_studies
from shearbench.errors import ConfigError
from shearbench.files.origin import Origin
from shearbench.options import merge
from shearbench.plan.digests import Digests
from shearbench.plan.run import Run, unavailable
from shearbench.simulation.populations import SPLITS

ROOT = Path(__file__).parents[3]
DEFAULT, TINY, STUDIES = (ROOT / "config" / name for name in ("config.yaml", "tiny.yaml", "studies"))
SMALL = {"base": "exp_gauss", "half_light_radius_arcsec": [0.4, 0.8]}
AS_FILES_SAY = {
    "study_seeds": None,
    "study_training": {"epochs": 2, "epoch_stamps": None},
    "study_networks_per_job": 1,
}
"""Changes to the tiny run with which studies have their own seeds, and the training of the run."""
GIVEN = merge(read_file(DEFAULT), read_file(TINY))


def run_of(changes=None, studies=STUDIES, left_out=()):
    """Return the tiny run with changes to its configuration."""
    config = resolve(merge(GIVEN, changes or {}))
    return Run(config, plan_studies(studies, config), dict.fromkeys(left_out, "not here"))


def digests_of(changes=None, inputs=(), **options):
    return Digests(run_of(changes, **options), ROOT / "scripts", lambda population: list(inputs))


def all_digests(digests):
    """Return the digest of each result of the run, by rule and names."""
    run = digests.run
    singles = (
        "evaluate_accuracy evaluate_shear_bias evaluate_psf_leakage evaluate_residuals evaluate_throughput "
        "evaluate_uncertainty "
        "evaluate_bayes_floor draw_gallery summarise_networks gather_inside summarise_studies figure_studies "
        "tables paper save_config manifest"
    ).split()
    found = {(rule,): getattr(digests, rule)() for rule in singles}
    for population in run.populations:
        found["sample_posterior", population] = digests.sample_posterior(population)
        for split in SPLITS:
            for rule in ("sample_catalog", "simulate_stamps", "index_stamps", "cramer_rao"):
                found[rule, population, split] = getattr(digests, rule)(population, split)
        for split, levels in run.noise.items():
            for estimator in run.estimators:
                for noise in levels:
                    depends = digests.measure(population, split, noise, estimator)
                    found["measure", population, split, noise, estimator] = depends
        for variant, seeds in run.networks.items():
            found["train", population, variant] = digests.train(population, variant)
            for split in run.noise:
                for seed in seeds:
                    depends = digests.predict(population, split, variant, seed)
                    found["predict", population, split, variant, seed] = depends
    for name in run.figures:
        found["figure", name] = digests.figure(name)
    for study in run.studies.known:
        for rule in ("evaluate_study", "table_study", "measure_attention", "measure_inside"):
            found[rule, study] = getattr(digests, rule)(study)
        for name in run.study_figures(study):
            found["figure_study", study, name] = digests.figure_of_study(name, study)
    return found


TINY_RUN = digests_of()
TINY_DIGESTS = all_digests(TINY_RUN)


def changed(changes, **options):
    """Return the results whose digests differ after changes to the configuration."""
    after = all_digests(digests_of(changes, **options))
    return {result for result in TINY_DIGESTS.keys() & after.keys() if TINY_DIGESTS[result] != after[result]}


def rules_of(results):
    return {result[0] for result in results}


# Names, counts and files


def test_counts_of_the_tiny_run():
    run = run_of()
    assert {split: run.stamps_in(split) for split in SPLITS} == {
        "train": 256,
        "validation": 64,
        "test": 96,
        "shear": 12 * 2 * 8,
        "leakage": 6 * 2 * 8,
    }
    assert run.chunks("train") == [(0, 100), (100, 200), (200, 256)]
    assert run.chunks("test") == [(0, 96)]
    assert run.stamps_mb("train", "test") == 2 * 4 * 24**2 * (256 + 96) // 10**6
    assert run.stamps_measured("shear", "metacal-shearnet") == 4 * 2 * 8
    assert run.stamps_measured("leakage", "metacal-shearnet") == 4 * 2 * 8
    assert run.stamps_measured("shear", "hsm-regauss") is None
    assert run.stamps_measured("test", "metacal-shearnet") is None


def test_counts_of_the_default_run():
    config = load(DEFAULT)
    run = Run(config, plan_studies(STUDIES, config))
    assert [run.stamps_in(split) for split in SPLITS] == [20000, 2000, 2000, 8000, 800]
    assert [len(run.chunks(split)) for split in SPLITS] == [4, 1, 1, 2, 1]
    assert sum(stop - start for start, stop in run.chunks("shear")) == 8000
    assert run.models == [("exp_gauss", name, 1) for name in ("shearnet", "whitened", "refined")]
    # Estimators that answer for ensembles only measure no test galaxies.
    ensemble = {"ngmix-metacal", "hsm-ksb", "anacal-fpfs", "metacal-mixture-gauss"}
    assert ensemble >= set(run.ensemble_estimators)
    assert set(run.estimators_on("shear")) - set(run.estimators_on("test")) == set(run.ensemble_estimators)
    per_level = len(run.estimators) - len(run.ensemble_estimators) + 3
    assert len(run.all_estimates("test")) == 5 * per_level


def test_names_of_the_tiny_run():
    run = run_of()
    assert run.folder == "results/tiny"
    assert run.sigma == {"1e-05": 1e-5, "0.01": 1e-2}
    assert run.lowest == "1e-05"
    assert run.noise == {"test": ["1e-05", "0.01"], "shear": ["1e-05"], "leakage": ["1e-05"]}
    assert run.network_inside("metacal-shearnet") == ("shearnet", 1)
    assert run.network_inside("hsm-regauss") is None
    assert list(run.labels) == run.estimators
    assert run.channels == {"exp_gauss": 1}
    assert run.with_posterior == ["exp_gauss"]
    assert run_of({"bayes_floor": {"galaxies": 0}}).with_posterior == []


def test_networks_have_the_seeds_of_their_study_or_of_the_run():
    run = run_of({"seeds": [7], **AS_FILES_SAY})
    assert run.seeds_of("exp_gauss", "shearnet") == [7]
    networks = run.study_networks("downsampling")
    assert set(networks) <= set(run.variants)
    name, *_ = set(networks) - set(run.networks)
    assert run.seeds_of("exp_gauss", name) == [1, 2, 3]
    assert len(run.study_estimates("downsampling")) == 5 * 3 * 2


def test_a_variant_of_the_run_and_a_value_of_a_study_that_are_equal_are_one_network(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "question: q?\nbase: shearnet\naxis: options.width\nvalues: {half: 8, whole: 16}\nseeds: [1, 2]\n"
    )
    digests = digests_of(AS_FILES_SAY, studies=tmp_path)
    run = digests.run
    assert run.studies.networks["s"]["whole"] == "shearnet"
    assert run.seeds_of("exp_gauss", "shearnet") == [1, 2]
    assert run.training("exp_gauss", "shearnet", 2)["values"] == ["s (whole)"]
    # The run measures with the seed of its own, and needs its result.
    rules = {
        seed: digests.origin(f"{run.folder}/estimates/exp_gauss/test/0.01/shearnet.seed{seed}.parquet").rule
        for seed in (1, 2)
    }
    assert rules == {1: "predict", 2: "predict_study"}
    assert [run.training("exp_gauss", "shearnet", seed)["may_diverge"] for seed in (1, 2)] == [False, True]


@pytest.mark.parametrize("name", ["studies", "studies_tiny", "paper"])
def test_all_studies_fit_the_runs_of_all_studies(name):
    config = load(DEFAULT, ROOT / f"config/{name}.yaml")
    plan = plan_studies(STUDIES, config)
    assert plan.wrong == {}
    if name == "paper":
        assert set(config.studies) == set(plan.known)
    else:
        assert {1e-5, 1e-2} == set(config.noise_levels)


def test_the_networks_of_studies_share_jobs_where_the_configuration_says_so(tmp_path):
    text = "question: q?\nbase: shearnet\naxis: options.width\nvalues: {a: 8, b: 16, c: 32}\nseeds: [1, 2]\n"
    (tmp_path / "s.yaml").write_text(text)
    (tmp_path / "t.yaml").write_text(text.replace("a: 8", "d: 64"))
    assert run_of(AS_FILES_SAY, studies=tmp_path).batches == {}
    digests = digests_of({**AS_FILES_SAY, "study_networks_per_job": 4}, studies=tmp_path)
    run, batches = digests.run, digests.run.batches
    assert [(name, len(networks)) for name, (_, networks) in batches.items()] == [
        ("studies_1", 4),
        ("studies_2", 3),
    ]
    trained = [(population, *network) for population, networks in batches.values() for network in networks]
    assert len(trained) == len(set(trained))
    needed = {(population, *rest) for population, *rest in run.values_of}
    assert set(trained) | set(run.models) >= needed
    # Files of one job have one name, whatever the network; those of other jobs have others.
    jobs = {
        digests.job(digests.origin(path))
        for _, networks in [batches["studies_1"]]
        for network in networks
        for path in (run.model_of("exp_gauss", *network), run.history_of("exp_gauss", *network))
    }
    assert jobs == {"train of studies_1"}
    paths = run.estimates_by("exp_gauss", "test", batches["studies_2"][1])
    assert {digests.job(digests.origin(path)) for path in paths} == {"predict_study of studies_2"}
    assert "shearnet" in digests.job(digests.origin(run.model_of("exp_gauss", "shearnet", 1)))


def test_files_of_the_tiny_run():
    run = run_of()
    assert run.stamps_of("train") == "results/tiny/stamps/{population}/train/index.json"
    assert run.model_of("exp_gauss", "shearnet", 1) == "results/tiny/models/exp_gauss/shearnet/seed1/model.pt"
    assert run.of_populations("bounds/{population}/test.parquet") == [
        "results/tiny/bounds/exp_gauss/test.parquet"
    ]
    files = run.estimates_of("exp_gauss", "test", "1e-05")
    folder = "results/tiny/estimates/exp_gauss/test/1e-05"
    assert files[-3:] == [f"{folder}/{name}.seed1.parquet" for name in ("shearnet", "whitened", "refined")]
    assert f"{folder}/hsm-regauss.parquet" in files
    assert f"{folder}/metacal-shearnet.parquet" not in files
    assert run.ensemble_estimates() == [
        "results/tiny/estimates/exp_gauss/shear/1e-05/metacal-shearnet.parquet"
    ]
    assert run.all_study_outputs == []
    included = run_of({"studies": ["downsampling"]})
    assert included.all_study_outputs == included.study_outputs("downsampling")


def test_an_estimator_that_is_left_out_has_no_files_and_no_label():
    run = run_of(left_out=["hsm-regauss"])
    assert "hsm-regauss" not in run.estimators
    assert "hsm-regauss" not in run.labels
    assert not any("hsm-regauss" in path for path in run.all_estimates("test"))
    assert set(unavailable(run.config)) <= set(run.config.estimators)


def test_a_figure_has_a_file_for_each_population_or_one():
    run = run_of({"populations": {"small": SMALL}})
    bins, accuracy = run.figures["shear_bias_bins"], run.figures["accuracy"]
    assert bins.files("pdf") == [
        f"results/tiny/figures/shear_bias_bins_{name}.pdf" for name in ("exp_gauss", "small")
    ]
    assert bins.arguments == [["exp_gauss"], ["small"]]
    assert accuracy.files("png") == ["results/tiny/figures/accuracy.png"]
    assert (accuracy.populations, accuracy.arguments) == ([], [[]])
    assert "study" not in run.figures
    assert len(run.figure_files) == 2 * len(run.captioned)


def test_figures_without_data_are_left_out():
    run = run_of({"bayes_floor": {"galaxies": 0}})
    bare = run_of(
        {"variants": dict.fromkeys(run.networks), "estimators": {"metacal-shearnet": None, "ensemble": None}}
    )
    assert not any("bayes_floor.csv" in path for one in run.figures.values() for path in one.sources)
    assert "networks" in run.figures
    assert "networks" not in bare.figures
    assert "training" not in bare.figures


def test_populations_whose_figures_have_one_name_are_refused():
    reason = "'x' and 'bins_x' would both have a figure called shear_bias_bins_x|'bins_x' and 'x' would"
    with pytest.raises(ConfigError, match=reason):
        run_of({"populations": {"x": SMALL, "bins_x": SMALL}})


def test_a_wrong_study_keeps_its_reason_and_stops_nothing(tmp_path):
    good = (STUDIES / "downsampling.yaml").read_text()
    (tmp_path / "good.yaml").write_text(good)
    (tmp_path / "bad.yaml").write_text(good.replace("base: baseline", "base: baselinee"))
    run = run_of(studies=tmp_path)
    assert list(run.studies.known) == ["good"]
    assert "baselinee" in run.studies.wrong["bad"]
    assert run.study_outputs("good")


# Digests


def test_digests_are_the_same_twice_and_differ_by_result():
    assert not changed({})
    by_rule = {}
    for (rule, *_), depends in TINY_DIGESTS.items():
        by_rule.setdefault(rule, []).append(depends)
    del by_rule["figure"]  # two that read the same metrics differ by their code, below
    assert {rule: len(set(digests)) for rule, digests in by_rule.items()} == {
        rule: len(digests) for rule, digests in by_rule.items()
    }
    figures = TINY_RUN.run.figures
    assert len({TINY_RUN.figure_code(name) for name in figures}) == len(figures)


def test_how_a_run_is_called_and_how_stamps_are_cut_change_no_result():
    assert rules_of(changed({"chunk_stamps": 50})) == {"save_config", "manifest"}
    # The paper names the run and its files.
    assert rules_of(changed({"run": "other"})) == {"save_config", "manifest", "paper"}


def test_tracking_changes_no_result_and_names_the_curve_of_each_training():
    assert rules_of(changed({"tracking": "tensorboard"})) == {"save_config", "manifest"}
    training = run_of({"tracking": "wandb"}).training("exp_gauss", "refined", 1)
    assert training["tracking"] == {
        "tracker": "wandb",
        "folder": "results/tiny/tracking",
        "run": "tiny",
        "name": "exp_gauss/refined",
    }
    with pytest.raises(ConfigError, match="tracking"):
        resolve(merge(GIVEN, {"tracking": "tensorbord"}))


def test_a_study_makes_all_that_its_file_asks_for():
    run = TINY_RUN.run
    metrics, figures = f"{run.metrics}/studies", f"{run.folder}/figures"
    of_all = {f"{metrics}/{{}}{end}" for end in (".csv", "_accuracy.csv", "_verdict.txt")}
    of_all.add(f"{figures}/study_{{}}.pdf")
    further = {
        "depth": [],
        "augmentation": ["metrics/studies/augmentation_shear.csv", "metrics/studies/augmentation_shear.txt"],
        "activation": [f"metrics/studies/activation_{kind}.csv" for kind in ("flow", "curves", "cost")],
        "downsampling": ["metrics/studies/downsampling_shifts.csv", "figures/shifts_downsampling.pdf"],
        "normalisation": ["metrics/studies/normalisation_batches.csv", "figures/batches_normalisation.pdf"],
    }
    further["activation"] += [
        f"figures/{name}_activation.pdf" for name in ("gradient_flow", "activation_curves", "step_cost")
    ]
    for study, paths in further.items():
        wanted = {path.format(study) for path in of_all} | {f"{run.folder}/{path}" for path in paths}
        assert set(run.study_results(study)) == wanted
        assert set(run.study_outputs(study)) - wanted == {f"{run.folder}/tables/study_{study}.tex"}


def test_a_study_with_attention_has_further_figures_and_its_networks_by_value():
    run = TINY_RUN.run
    further = {"attention_maps", "attention_ranks", "position_codes"}
    assert set(run.study_figures("attention")) == {"study", *further}
    assert run.study_figures("depth") == ["study"]
    without = run.study_results("attention", attention=False)
    assert set(run.study_results("attention")) > set(without)
    assert f"{run.folder}/figures/study_attention.pdf" in without
    assert f"{run.metrics}/studies/attention_attention.h5" not in without
    drawn = {path.rpartition("/")[2] for path in run.study_outputs("attention") if path.endswith(".pdf")}
    assert drawn == {f"{name}_attention.pdf" for name in ("study", *further)}
    models = run.study_models("attention")
    known = run.studies.known["attention"]
    assert list(models) == list(known.values)
    assert all(len(paths) == len(known.seeds) for paths in models.values())
    made = {path for paths in models.values() for path in paths}
    assert all((origin := TINY_RUN.origin(path)) is not None and origin.rule == "train" for path in made)


def test_a_new_noise_level_changes_no_estimate_and_no_network():
    levels = {"noise_levels": [1e-5, 1e-3, 1e-2]}
    rules = rules_of(changed(levels))
    assert rules.isdisjoint(
        {"sample_catalog", "simulate_stamps", "cramer_rao", "measure", "train", "predict", "evaluate_study"}
    )
    assert {"sample_posterior", "draw_gallery", "evaluate_accuracy", "evaluate_bayes_floor"} <= rules


def test_a_wider_variant_changes_that_variant_alone():
    results = changed({"variants": {"shearnet": {"training": {"epochs": 3}}}})
    assert {result for result in results if result[0] == "train"} == {("train", "exp_gauss", "shearnet")}
    assert {result[3] for result in results if result[0] == "predict"} == {"shearnet"}
    # The estimators that measure with it change with it, and no others do.
    measured = {result[4] for result in results if result[0] == "measure"}
    assert measured == {"metacal-shearnet", "ensemble"}
    assert rules_of(results).isdisjoint({"sample_catalog", "simulate_stamps", "cramer_rao"})


def test_the_label_of_an_estimator_changes_tables_and_no_estimates():
    rules = rules_of(changed({"estimators": {"hsm-regauss": {"label": "HSM"}}}))
    assert rules.isdisjoint({"measure", "train", "predict", "evaluate_study"})
    assert {"evaluate_accuracy", "tables", "paper", "figure"} <= rules


def test_galaxies_of_a_split_change_that_split_and_what_is_made_from_it():
    results = changed({"galaxies": {"shear": 13}})
    by_split = "sample_catalog", "simulate_stamps", "cramer_rao", "measure", "predict"
    assert {result[2] for result in results if result[0] in by_split} == {"shear"}
    assert rules_of(results).isdisjoint({"train", "sample_posterior", "evaluate_accuracy", "evaluate_study"})
    assert ("evaluate_shear_bias",) in results
    results = changed({"galaxies": {"leakage": 13}})
    assert {result[2] for result in results if result[0] in by_split} == {"leakage"}
    assert ("evaluate_psf_leakage",) in results
    assert ("evaluate_shear_bias",) not in results
    assert rules_of(changed({"shear_test": {"psf_shape": 0.03}})) == rules_of(results)
    # The stamps an estimator measures count where it measures a part of them.
    results = changed({"estimators": {"metacal-shearnet": {"shear_galaxies": 5}}})
    assert {result[2:] for result in results if result[0] == "measure"} == {
        ("shear", "1e-05", "metacal-shearnet"),
        ("leakage", "1e-05", "metacal-shearnet"),
    }


def test_bootstrap_changes_the_tables_with_errors_and_no_estimate():
    rules = rules_of(changed({"bootstrap": 60}))
    assert {"evaluate_accuracy", "evaluate_shear_bias", "evaluate_bayes_floor", "evaluate_study"} <= rules
    assert rules.isdisjoint({"measure", "predict", "cramer_rao", "evaluate_residuals", "evaluate_throughput"})


def test_bounds_depend_on_the_stamps_where_the_psf_is_an_image(monkeypatch):
    image = {"psf": {"profile": "image", "image_file": "psf.fits"}}
    changes = {"populations": {"exp_gauss": image, "small": SMALL}, "training": {"data": "stored"}}
    code = Digests.code
    bounds = [digests_of(changes).cramer_rao(name, "test") for name in ("exp_gauss", "small")]
    # As if the code that draws stamps were another.
    monkeypatch.setattr(
        Digests,
        "code",
        lambda self, script, modules=(): (
            "other" if script == "simulate_stamps" else code(self, script, modules)
        ),
    )
    after = [digests_of(changes).cramer_rao(name, "test") for name in ("exp_gauss", "small")]
    assert after[0] != bounds[0]
    assert after[1] == bounds[1]


def test_a_changed_input_file_changes_what_is_drawn_from_it():
    file = {"path": "a.fits", "bytes": 3, "sha256": "0" * 64}
    rules = rules_of(changed({}, inputs=[file]))
    assert {"sample_catalog", "simulate_stamps", "train", "measure", "tables"} <= rules
    assert rules.isdisjoint({"save_config", "summarise_networks"})


def test_the_reason_of_a_rerun_names_the_key_that_changed():
    before, after = TINY_RUN.sections(), digests_of({"bootstrap": 60}).sections()
    assert {key for key in before if before[key] != after[key]} == {"digest_of_bootstrap"}
    assert after["digest_of_bootstrap"].startswith("bootstrap ")


# Origins


def test_every_kind_of_file_has_its_origin():
    digests, run = TINY_RUN, TINY_RUN.run
    study = "downsampling"
    network, *_ = run.study_networks(study)
    at = {"population": "exp_gauss", "split": "test"}
    estimates = {**at, "noise": "0.01"}
    expected = {
        "config.yaml": Origin("save_config", digests.save_config()),
        "catalogs/exp_gauss/test.parquet": Origin(
            "sample_catalog", digests.sample_catalog("exp_gauss", "test"), at
        ),
        "stamps/exp_gauss/test/index.json": Origin(
            "index_stamps", digests.index_stamps("exp_gauss", "test"), at
        ),
        "stamps/exp_gauss/test/0.h5": Origin(
            "simulate_stamps", digests.simulate_stamps("exp_gauss", "test"), {**at, "chunk": 0}
        ),
        "bounds/exp_gauss/test.parquet": Origin("cramer_rao", digests.cramer_rao("exp_gauss", "test"), at),
        "bounds/exp_gauss/posterior.parquet": Origin(
            "sample_posterior", digests.sample_posterior("exp_gauss"), at
        ),
        "estimates/exp_gauss/test/0.01/hsm-regauss.parquet": Origin(
            "measure",
            digests.measure("exp_gauss", "test", "0.01", "hsm-regauss"),
            {**estimates, "estimator": "hsm-regauss"},
        ),
        "estimates/exp_gauss/test/0.01/refined.seed1.parquet": Origin(
            "predict",
            digests.predict("exp_gauss", "test", "refined", 1),
            {**estimates, "estimator": "refined", "seed": 1},
        ),
        "estimates/exp_gauss/shear/1e-05/refined.seed1.parquet": Origin(
            "predict_shear",
            digests.predict("exp_gauss", "shear", "refined", 1),
            {**at, "split": "shear", "noise": "1e-05", "estimator": "refined", "seed": 1},
        ),
        "estimates/exp_gauss/leakage/1e-05/hsm-regauss.parquet": Origin(
            "measure_shear",
            digests.measure("exp_gauss", "leakage", "1e-05", "hsm-regauss"),
            {**at, "split": "leakage", "noise": "1e-05", "estimator": "hsm-regauss"},
        ),
        f"estimates/exp_gauss/test/0.01/{network}.seed3.parquet": Origin(
            "predict_study",
            digests.predict("exp_gauss", "test", network, 3),
            {**estimates, "estimator": network, "seed": 3},
        ),
        "models/exp_gauss/refined/seed1/history.csv": Origin(
            "train",
            digests.train("exp_gauss", "refined"),
            {"population": "exp_gauss", "variant": "refined", "seed": 1, "content": "history"},
        ),
        "metrics/trends.csv": Origin("evaluate_residuals", digests.evaluate_residuals(), {"table": "trends"}),
        "metrics/networks.txt": Origin(
            "summarise_networks", digests.summarise_networks(), {"table": "networks"}
        ),
        f"metrics/studies/{study}_verdict.txt": Origin(
            "evaluate_study",
            digests.evaluate_study(study),
            {"study": study, "table": f"{study}_verdict"},
        ),
        "metrics/studies.csv": Origin("summarise_studies", digests.summarise_studies(), {"table": "studies"}),
        "metrics/studies/attention_attention.h5": Origin(
            "measure_attention",
            digests.measure_attention("attention"),
            {"study": "attention", "table": "attention_attention"},
        ),
        "metrics/studies/activation_flow.csv": Origin(
            "measure_inside",
            digests.measure_inside("activation"),
            {"study": "activation", "table": "activation_flow"},
        ),
        f"tables/study_{study}.tex": Origin("table_study", digests.table_study(study), {"study": study}),
        "tables/accuracy.tex": Origin("tables", digests.tables(), {"table": "accuracy"}),
        "paper/numbers.json": Origin("paper", digests.paper(), {"content": "numbers"}),
    }
    found = {path: digests.origin(f"{run.folder}/{path}") for path in expected}
    assert found == expected
    paths = [f"{run.folder}/{path}" for path in expected]
    assert digests.origins(paths[:3], [*paths[3:], "elsewhere"]) == dict(zip(paths, expected.values()))
    assert digests.origin(f"elsewhere/{paths[0]}") == expected["config.yaml"]


@pytest.mark.parametrize(
    "path",
    """
    manifest.json
    mine.yaml
    .lock
    catalogs/exp_gauss/tests.parquet
    catalogs/exp_gauss/test.csv
    catalogs/other/test.parquet
    stamps/exp_gauss/test/1.h5
    stamps/exp_gauss/test/old.h5
    stamps/exp_gauss/tests/index.json
    bounds/other/posterior.parquet
    estimates/exp_gauss/test/0.1/hsm-regauss.parquet
    estimates/exp_gauss/test/0.01/other.parquet
    estimates/exp_gauss/test/0.01/other.seed1.parquet
    estimates/exp_gauss/test/0.01/refined.seedling.parquet
    estimates/exp_gauss/test/0.01/hsm-regauss.csv
    models/exp_gauss/other/seed1/model.pt
    models/exp_gauss/refined/seed/model.pt
    models/exp_gauss/refined/seed1/mine.pt
    metrics/mine.csv
    metrics/studies/other.csv
    figures/accuracy_exp_gauss.pdf
    tables/mine.tex
    tables/downsampling.tex
    tables/study_other.tex
    paper/main.pdf
    paper/main.aux
    """.split(),
)
def test_other_files_have_no_origin(path):
    assert TINY_RUN.origin(f"results/tiny/{path}") is None
    assert TINY_RUN.origin(f"results/tiny2/{path}") is None


def test_a_run_is_planned_without_studies():
    run = Run(resolve(GIVEN), Studies({}, {}, {}, {}))
    assert list(run.variants) == list(run.networks)


# Stamps of users

MINE = {"observations": {"mine": {"stamps": "my.h5"}, "other": {"stamps": "o.fits", "sigma": 1e-3}}}


def test_stamps_of_users_are_measured_by_all_and_nothing_else_changes():
    run = run_of(MINE)
    assert run.observations == ["mine", "other"]
    assert run.networks_from("mine") == "exp_gauss"
    assert {"hsm_regauss", "metacal_shearnet", "refined"} <= set(run.measurers)
    assert run.measurers["refined"] == ("refined.seed1", "refined", 1)
    assert "results/tiny/observations/mine/estimates/refined.seed1.parquet" in run.observed_by("mine")
    assert "results/tiny/observations/other.fits" in run.observation_outputs
    assert {"refined_seed1", "refined_seed2"} <= set(run_of({"seeds": [1, 2]}).measurers)
    # Their figure is in the paper.
    assert rules_of(changed(MINE)) == {"save_config", "manifest", "paper"}
    assert run_of().observation_outputs == []


def test_two_estimators_whose_columns_have_one_name_are_refused():
    twice = {"estimators": {"a-b": {"base": "hsm-ksb"}, "a_b": {"base": "hsm-ksb"}}}
    assert run_of(twice).measurers
    with pytest.raises(ConfigError, match=r"'a-b' and 'a_b' would both have the columns a_b_g1"):
        run_of(merge(twice, MINE)).measurers  # noqa: B018


def test_a_users_stamps_count_by_their_contents_and_options():
    def depends(changes=MINE, sha256="0"):
        found = Digests(
            run_of(changes), ROOT / "scripts", lambda name: [], lambda name: [{"path": "p", "sha256": sha256}]
        )
        return (
            found.observe("mine"),
            found.measure_observation("mine", "hsm_regauss"),
            found.measure_observation("mine", "refined"),
            found.catalogue_observation("mine"),
            found.gather_observations(),
        )

    before = depends()
    for after in (depends(sha256="1"), depends(merge(MINE, {"observations": {"mine": {"sigma": 1e-4}}}))):
        assert all(one != other for one, other in zip(before, after))
    # Training anew changes what networks measured, and not what HSM did.
    after = depends(merge(MINE, {"training": {"epochs": 3}}))
    assert [one == other for one, other in zip(before, after)][:4] == [True, True, False, False]


def test_files_of_users_stamps_have_an_origin():
    digests = digests_of(MINE)
    for path, rule in {
        "observations/mine.parquet": "catalogue_observation",
        "observations/mine/galaxies.parquet": "observe",
        "observations/mine/shear.parquet": "catalogue_observation",
        "observations/mine/estimates/refined.seed1.parquet": "measure_observation",
        "observations/mine/estimates/hsm-regauss.parquet": "measure_observation",
        "networks/exp_gauss/refined.seed1.pt": "pack_network",
        "metrics/observed_shear.parquet": "gather_observations",
    }.items():
        assert digests.origin(f"results/tiny/{path}").rule == rule
    for path in (
        "observations/mine.fits",
        "observations/none.parquet",
        "networks/exp_gauss/refined.seed2.pt",
    ):
        assert digests.origin(f"results/tiny/{path}") is None


def test_networks_are_judged_on_other_populations_only_where_the_run_asks_for_it():
    assert "judged" not in TINY_RUN.run.figures
    digests = digests_of({"populations": {"small": SMALL}, "judge_on": ["small"], "seeds": [1, 2]})
    run = digests.run
    assert run.judged == [("exp_gauss", "small")]
    assert run.figures["judged"].files("png") == ["results/tiny/figures/judged.png"]
    paths = run.all_judged_estimates("test") + run.all_judged_estimates("shear")
    assert len(paths) == 2 * len(run.noise["shear"]) * len(run.networks) * 2
    origins = [digests.origin(path) for path in paths]
    assert {(o.rule, o.names["trained"], o.names["population"]) for o in origins} == {
        ("judge", "exp_gauss", "small")
    }
    assert len({str(origin) for origin in origins}) == len(paths)
    # One job for both splits, all seeds and noise levels of a network.
    assert len({digests.job(origin) for origin in origins}) == len(run.networks)
    assert digests.origin(paths[0].replace("judged/exp_gauss/small", "judged/small/exp_gauss")) is None
    assert digests.metrics("judged.csv") == digests.evaluate_judged()


JUDGED_WITH_DROPOUT = {
    "populations": {"small": SMALL},
    "judge_on": ["small"],
    "seeds": [1, 2],
    "model_errors": {"galaxies": 6},
    "observations": {"mine": {"stamps": "my.h5", "networks_from": "small"}},
    "variants": {"dropped": {"base": "pooled", "options": {"dropout": 0.1}}},
    "estimators": {"ensemble": {"networks": ["shearnet", "whitened"]}, "mc-dropout": {"network": "dropped"}},
}


def test_an_ensemble_is_computed_from_the_files_of_its_members():
    digests = digests_of(JUDGED_WITH_DROPOUT)
    run = digests.run
    members = [(variant, seed) for variant in ("shearnet", "whitened") for seed in (1, 2)]
    assert (run.combined, run.members("ensemble")) == (["ensemble"], members)
    assert set(run.measuring) == set(run.estimators) - {"ensemble"}
    assert run.trained_estimators == ["ensemble", "mc-dropout"]
    own = run.combined_estimates("small", "ensemble")
    assert len(own) == sum(map(len, run.noise.values()))
    assert set(own) <= {path for split in run.noise for path in run.all_estimates(split)}
    elsewhere = run.judged_by("exp_gauss", "small", "ensemble")
    told = run.misjudged_estimates("small", "1e-05", "ensemble")
    mine = [path for path in run.observed_by("mine") if path.endswith("/ensemble.parquet")]
    made = {
        "combine": own,
        "combine_judged": elsewhere,
        "combine_model_errors": told,
        "combine_observation": mine,
    }
    for rule, paths in made.items():
        files = run.beside(paths, "ensemble")
        assert len(files) == len(paths) * len(members) > 0
        origins = [digests.origin(path) for path in paths]
        assert {origin.rule for origin in origins} == {rule}
        assert len({str(origin) for origin in origins}) == len(paths)
        assert len({digests.job(origin) for origin in origins}) == 1
        assert len({str(digests.origin(path)) for path in files}) == len(files)
        rules = {digests.origin(path).rule for path in files}
        assert rules <= {"predict", "predict_shear", "judge", "predict_model_errors", "measure_observation"}
    assert digests.combine("small", "ensemble")
    (path,) = run.judged_by("exp_gauss", "small", "mc-dropout")
    assert digests.origin(path).rule == "measure_judged"
    assert digests.origin(path.replace("mc-dropout", "hsm-regauss")) is None
    assert {*elsewhere, path} < set(run.all_judged_errors())


def test_an_ensemble_depends_on_its_members_alone():
    after = changed({"variants": {"refined": {"training": {"epochs": 1}}}})
    assert "evaluate_uncertainty" in rules_of(after)
    of_ensemble = {result for result in TINY_DIGESTS if result[0] == "measure" and result[-1] == "ensemble"}
    assert of_ensemble
    assert not of_ensemble & after
    assert of_ensemble <= changed({"variants": {"whitened": {"training": {"epochs": 1}}}})


def test_a_calibrated_network_has_a_file_of_its_own_for_each_population():
    given = merge(JUDGED_WITH_DROPOUT, {"estimators": {"calibrated": {"network": "dropped"}}})
    digests = digests_of(given)
    run = digests.run
    assert run.calibrated == ["calibrated"]
    assert set(run.trained_estimators) & set(run.measuring) == {"calibrated", "mc-dropout"}
    path = run.network_file("small", "calibrated")
    assert path == "results/tiny/calibrations/models/small/calibrated/seed1/model.pt"
    assert path == run.network_measuring("mine", "calibrated")
    assert run.network_file("small", "mc-dropout") == run.model_of("small", "dropped", 1)
    assert run.network_file("small", "hsm-regauss") == []
    origin, history = digests.origin(path), digests.origin(path.replace("model.pt", "history.csv"))
    assert (origin.rule, origin.depends) == ("calibrate", digests.calibrate("small", "calibrated"))
    assert origin != history
    assert digests.job(origin) == digests.job(history)
    assert digests.origin(path.replace("/calibrated/", "/mc-dropout/")) is None
    assert origin != digests.origin(run.network_file("exp_gauss", "calibrated"))

    def results(changes):
        other = digests_of(merge(given, changes))
        place = "small", "test", "1e-05"
        return {
            "train": other.train("small", "dropped"),
            "calibrate": other.calibrate("small", "calibrated"),
            "measure": other.measure(*place, "calibrated"),
            "judge": other.judge_estimator("exp_gauss", "small", "calibrated"),
            "of a user": other.measure_observation("mine", "calibrated"),
            "dropped": other.measure(*place, "mc-dropout"),
        }

    before = results({})

    def changed_by(changes):
        return {name for name, found in results(changes).items() if found != before[name]}

    of_committee = {"calibrate", "measure", "judge", "of a user"}
    assert changed_by({"estimators": {"calibrated": {"galaxies": 64}}}) == of_committee
    assert changed_by({"estimators": {"calibrated": {"label": "other"}}}) == set()
    assert changed_by({"variants": {"dropped": {"training": {"epochs": 3}}}}) == set(before)


def test_wrong_psfs_and_noise_levels_are_told_only_where_the_run_asks_for_it():
    assert "model_errors" not in TINY_RUN.run.figures
    digests = digests_of({"model_errors": {"galaxies": 6}, "seeds": [1, 2]})
    run = digests.run
    assert run.figures["model_errors"].sources == ["results/tiny/metrics/model_errors.csv"]
    # A slow estimator measures fewer galaxies.
    assert (run.stamps_misjudged("metacal-shearnet"), run.stamps_misjudged("hsm-regauss")) == (64, 96)
    assert run.stamps_misjudged() == 96
    plain, wrong = run.all_estimates("shear", run.misjudged_noise), run.all_misjudged_estimates()
    assert len(wrong) == 4 * len(plain)
    for number, path in enumerate(wrong):
        origin, right = digests.origin(path), digests.origin(plain[number // 4])
        assert origin.rule.removesuffix("_model_errors") in ("measure", "predict", "combine")
        assert origin.names["told"] == list(run.misjudged)[number % 4]
        shared = {"population", "noise", "estimator", "seed"}
        assert {k: origin.names.get(k) for k in shared} == {k: right.names.get(k) for k in shared}
        assert TINY_RUN.origin(path) is None
    # One job for all errors; of a network, also for all seeds and noise levels.
    jobs = {digests.job(digests.origin(path)) for path in wrong}
    assert len(jobs) == len(run.estimators) + len(run.networks)
    assert digests.metrics("model_errors.csv") == digests.evaluate_model_errors()
    other = digests_of({"model_errors": {"galaxies": 6, "psf_size": 0.02}, "seeds": [1, 2]})
    assert other.evaluate_model_errors() != digests.evaluate_model_errors()
    assert other.evaluate_shear_bias() == digests.evaluate_shear_bias()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"networks_from": "exp"}, "'exp' is not a population of this run.*did you mean 'exp_gauss'"),
        ({"stamps": ""}, "observations.mine.stamps: found '', expected at least 1 character"),
        ({"sigma": -1}, "observations.mine.sigma: found -1, expected at least 1e-12"),
        ({"psfs": "p.fits"}, "there is no such key .did you mean 'psf'"),
    ],
)
def test_a_wrong_option_of_a_users_stamps_is_named(changes, says):
    with pytest.raises(ConfigError, match=says):
        run_of(merge(MINE, {"observations": {"mine": changes}}))


def test_the_population_of_the_networks_is_needed_where_there_are_several():
    two = {"populations": {"second": SMALL}}
    with pytest.raises(ConfigError, match=r"mine.networks_from: it is needed .*: one of exp_gauss, second"):
        run_of(merge(two, MINE))
