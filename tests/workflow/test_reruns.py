"""Which jobs run again after a change."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml
from conftest import jobs_in, planned, snakemake
from moving import move_modules

JUDGED = {
    "evaluate_accuracy",
    "evaluate_residuals",
    "evaluate_uncertainty",
    "evaluate_throughput",
    "figure_accuracy",
    "figure_efficiency",
    "figure_decomposition",
    "figure_cost",
    "evaluate_bayes_floor",
    "manifest",
}


def change_config(folder, change):
    path = folder / "config/tiny.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def test_nothing_is_to_be_done_after_a_run_whatever_the_modification_times(run):
    (run / "README.md").write_text("new words\n")
    assert planned(run) == {}


def test_stamps_that_nothing_needs_any_more_are_not_drawn_again(run):
    (run / "results/tiny/stamps/exp_gauss/train/1.h5").unlink()
    assert planned(run) == {}


def test_comments_and_other_targets_do_not_count(run):
    for path in run.glob("src/shearbench/**/*.py"):
        path.write_text(f"# a remark\n{path.read_text()}\n# another\n")
    assert planned(run) == {}
    assert planned(run, ["figures"]) == {}


def test_moved_modules_make_nothing_anew_and_count_where_they_are(run):
    package = run / "src/shearbench"
    moves = {
        f"shearbench.{name}": f"shearbench.attic.{name.replace('.', '_')}"
        for name in (
            "forward_model.fourier",
            "data.noise",
            "bounds.cramer_rao",
            "networks.modules.heads",
            "jobs.job",
        )
    }
    move_modules(run, {**moves, "shearbench.measurement.mixture.fit": "shearbench.attic.one_fit"})
    assert planned(run) == {}
    module = package / "attic/one_fit.py"
    module.write_text(module.read_text() + "\n_CHANGED = True\n")
    jobs = planned(run)
    assert {"measure", "evaluate_accuracy"} <= set(jobs)
    assert not {"train", "predict", "simulate_stamps", "cramer_rao"} & set(jobs)


def test_a_new_noise_level_trains_nothing(run):
    change_config(run, lambda config: config["noise_levels"].append("1e-3"))
    jobs = planned(run)
    assert not {"train", "simulate_stamps", "sample_catalog", "cramer_rao", "predict_shear"} & set(jobs)
    # One level more for each classical estimator; a network answers all levels of a split in one job.
    names = {path.stem for path in run.glob("results/tiny/estimates/exp_gauss/test/0.01/*")}
    classical = {name for name in names if ".seed" not in name} - {"ensemble"}
    assert jobs["measure"] == len(classical)
    assert jobs["combine"] == 1
    assert jobs["predict"] == 3
    assert {*JUDGED, "sample_posterior"} <= set(jobs)


def test_a_new_seed_trains_that_seed_alone(run):
    change_config(run, lambda config: config.update(seeds=[1, 2]))
    jobs = planned(run)
    assert jobs["train"] == 3
    assert not {"measure", "measure_shear", "simulate_stamps", "index_stamps", "cramer_rao"} & set(jobs)


@pytest.mark.slow
def test_new_seeds_may_train_together_which_trains_nothing_again(run):
    change_config(run, lambda config: config.update(seeds=[1, 2, 3]))
    folder = "results/tiny/{}/exp_gauss/shearnet/seed{}"
    models = [folder.format("models", seed) + "/model.pt" for seed in (1, 2, 3)]
    output = snakemake(run, "--cores", "1", "--set-resources", "train:together=3", targets=models)
    assert "2 of 2 steps (100%) done" in output
    logs = [(run / (folder.format("logs/train", seed) + ".log")).read_text() for seed in (2, 3)]
    shown = [set(re.findall(r"shearnet seed ([\d ]+):", log)) for log in logs]
    assert sorted(map(len, shown)) == [0, 1]
    assert shown[0] | shown[1] <= {"2 3", "3 2"}  # the first is trained
    assert planned(run, targets=models) == {}


def test_a_wider_variant_trains_that_variant_alone(run):
    change_config(run, lambda config: config.update(variants={"shearnet": {"options": {"width": 12}}}))
    reasons = snakemake(run, "--dry-run")
    jobs = jobs_in(reasons)
    assert jobs["train"] == 1
    assert jobs["predict"] == 1
    assert jobs["predict_shear"] == 1
    assert jobs["summarise_networks"] == 1
    assert jobs["measure_shear"] == 1  # metacalibration around it
    assert "measure" not in jobs
    assert not {"simulate_stamps", "sample_catalog", "cramer_rao"} & set(jobs)
    assert JUDGED <= set(jobs)
    assert re.findall(r"rule train:\n(?:.*\n)*?    wildcards: .*variant=(\w+)", reasons) == ["shearnet"]
    # A reason is short, and that of the configuration names the section that changed.
    found = re.findall(r"    reason: (.*)", reasons)
    assert max(map(len, found)) < 300
    assert "Options of variants have changed" in found
    assert "Options, code or inputs have changed" in found


def test_a_change_of_the_fits_trains_nothing(run):
    module = run / "src/shearbench/measurement/mixture/fit.py"
    module.write_text(module.read_text() + "\n_CHANGED = True\n")
    jobs = planned(run)
    # mixture-exp and mixture-gauss at two levels on test and one on shear and leakage; not HSM.
    assert jobs["measure"] == 4
    assert jobs["measure_shear"] == 2
    assert not {"train", "predict", "simulate_stamps", "cramer_rao"} & set(jobs)


def test_a_change_of_one_architecture_trains_its_variants_alone(run):
    module = run / "src/shearbench/networks/whitened.py"
    module.write_text(module.read_text() + "\n_CHANGED = True\n")
    jobs = planned(run)
    assert jobs["train"] == 2  # whitened, and refined, whose first guess it makes
    assert not {"measure", "measure_shear"} & set(jobs)


def test_a_change_of_one_figure_redraws_it_alone(run):
    module = run / "src/shearbench/figures/cost.py"
    module.write_text(module.read_text() + "\n_CHANGED = True\n")
    jobs = planned(run)
    assert {name for name in jobs if name.startswith("figure_")} == {"figure_cost"}
    assert not {"train", "measure", "evaluate_accuracy"} & set(jobs)


def test_a_new_option_of_the_galaxies_starts_from_the_catalog(run):
    change_config(run, lambda config: config["populations"]["exp_gauss"].update(flux=[1, 2]))
    jobs = planned(run)
    assert {"sample_catalog", "simulate_stamps", "train", "measure", "cramer_rao"} <= set(jobs)


def test_copied_results_without_snakemakes_records_are_made_again_where_they_are_other(finished, run):
    shutil.rmtree(run / ".snakemake")
    # Without its records Snakemake goes by modification times: they are kept, as by `cp -a`.
    for path in (run / "results").rglob("*"):
        shutil.copystat(finished / path.relative_to(run), path)
    assert planned(run) == {}
    change_config(run, lambda config: config.update(variants={"shearnet": {"options": {"width": 12}}}))
    jobs = planned(run)
    assert jobs["train"] == jobs["predict"] == jobs["predict_shear"] == 1
    assert not {"simulate_stamps", "sample_catalog", "cramer_rao"} & set(jobs)
    assert JUDGED <= set(jobs)
    change_config(run, lambda config: config.update(seed=8))
    shutil.rmtree(run / ".snakemake")
    assert {"save_config", "sample_catalog", "simulate_stamps", "train", "measure"} <= set(planned(run))
