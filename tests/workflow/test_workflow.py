"""The whole workflow, from a configuration to the figures."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from checkout import copy_workflow
from conftest import planned, snakemake

from shearbench.figures.catalogue import entries

ROOT = Path(__file__).parents[2]
FIGURES = (
    "accuracy efficiency networks training cost decomposition_exp_gauss truth_exp_gauss residuals_exp_gauss "
    "trends_exp_gauss shear_bias_exp_gauss shear_bias_bins_exp_gauss psf_leakage_exp_gauss "
    "selection_exp_gauss shear_trends_exp_gauss gallery_exp_gauss "
    "reliability_exp_gauss error_against_error_exp_gauss ranks_exp_gauss "
    "inside_layers_exp_gauss inside_weights_exp_gauss inside_flow_exp_gauss inside_gradients_exp_gauss "
    "kernels_exp_gauss inside_features_exp_gauss_shearnet inside_features_exp_gauss_whitened "
    "inside_features_exp_gauss_refined"
).split()
NETWORKS = ("shearnet", "whitened", "refined")
METRICS = [
    f"metrics/{name}"
    for name in (
        "networks.txt",
        "network_layers.csv",
        "bayes_floor.csv",
        "uncertainty.csv",
        "uncertainty_curves.csv",
        "shear_bias_bins.csv",
        "psf_leakage.csv",
        "selection.csv",
        "shear_trends.csv",
        "shape_noise.csv",
        "training.csv",
        "inside_layers.csv",
        "inside_flow.csv",
        "inside_curvature.csv",
        "inside_gradients.csv",
        "inside_shifts.csv",
        "inside_overlap.csv",
        "inside_maps.h5",
    )
]


def test_a_run_leaves_everything_a_paper_needs(finished):
    results = finished / "results/tiny"
    for name in FIGURES:
        for suffix in ("pdf", "png"):
            assert (results / f"figures/{name}.{suffix}").stat().st_size > 5000, name
    for name in ("accuracy", "shear_bias", "throughput", "estimators", "networks"):
        assert r"\begin{longtable}" in (results / f"tables/{name}.tex").read_text()
    assert (results / "paper/main.tex").read_text().count("includegraphics") == len(FIGURES)
    assert json.loads((results / "paper/numbers.json").read_text())
    assert r"\newcommand" in (results / "paper/macros.tex").read_text()


def test_metrics_cover_every_estimator_at_every_level_and_count_failures(finished):
    accuracy = pd.read_csv(finished / "results/tiny/metrics/accuracy.csv")
    names = {"mixture-exp", "mixture-gauss", "hsm-regauss", "ensemble", *NETWORKS}
    assert names <= set(accuracy.estimator) <= names | {"ngmix-exp", "ngmix-gauss"}
    assert set(accuracy.noise) == {1e-5, 1e-2}
    assert (accuracy.groupby("estimator").noise.nunique() == 2).all()
    assert (accuracy.n == 96).all()
    assert accuracy.n_failed.between(0, 95).all()
    exact = accuracy[(accuracy.estimator == "mixture-exp") & (accuracy.noise == 1e-5)].iloc[0]
    # 96 galaxies: the model is right, so the fit sits on the bound, within its own bootstrap error.
    assert abs(exact.rmse_over_crb - 1) < 5 * exact.rmse_over_crb_err
    bias = pd.read_csv(finished / "results/tiny/metrics/shear_bias.csv")
    assert set(bias.calibration) >= {"none", "response"}
    exact = bias[(bias.estimator == "mixture-exp") & (bias.calibration == "none")].iloc[0]
    assert abs(exact.m1) < max(1e-3, 5 * exact.m1_err)
    cuts = pd.read_csv(finished / "results/tiny/metrics/selection.csv")
    assert set(cuts.estimator) == set(bias.estimator)
    assert set(cuts[cuts.estimator == "mixture-exp"].column) > {"flux / flux_err", "T", "flux"}
    assert "not measured" in set(cuts[cuts.estimator == "shearnet"].column)
    leakage = pd.read_csv(finished / "results/tiny/metrics/psf_leakage.csv")
    assert set(leakage.estimator) == set(bias.estimator)
    assert (
        leakage.groupby("estimator").n_pairs.max() + leakage.groupby("estimator").n_failed.max() <= 6
    ).all()
    exact = leakage[(leakage.estimator == "mixture-exp") & (leakage.calibration == "response")].iloc[0]
    assert max(abs(exact.alpha1), abs(exact.alpha2)) < 0.01
    # The ensemble of two networks is between them, and its error has two parts.
    errors = pd.read_csv(finished / "results/tiny/metrics/uncertainty.csv")
    assert set(errors.estimator) == set(accuracy.estimator)
    parts = errors[errors.estimator == "ensemble"]
    assert (parts[["aleatoric", "epistemic"]] > 0).all(axis=None)
    assert errors[errors.estimator == "shearnet"].epistemic.isna().all()
    # At 1e-5 the wide pixels of the tiny run are a larger error than the noise.
    exact = errors[(errors.estimator == "mixture-exp") & (errors.noise == 1e-2)].iloc[0]
    assert abs(exact.coverage68 - 0.6827) < 5 * exact.coverage68_err
    # Metacalibration around a network: of four galaxies, for ensembles only.
    wrapped = bias[(bias.estimator == "metacal-shearnet") & (bias.calibration != "simulated")]
    assert (wrapped.n_pairs + wrapped.n_failed == 4).all()
    assert "metacal-shearnet" in set(pd.read_csv(finished / "results/tiny/metrics/throughput.csv").name)


def test_metrics_tell_of_the_floor_of_bins_and_of_the_networks_themselves(finished):
    metrics = finished / "results/tiny/metrics"
    floor = pd.read_csv(metrics / "bayes_floor.csv")
    assert set(floor.noise) == {1e-5, 1e-2}
    assert set(NETWORKS) <= set(floor.estimator)
    bins = pd.read_csv(metrics / "shear_bias_bins.csv")
    assert set(NETWORKS) <= set(bins.estimator)
    networks = pd.read_csv(metrics / "networks.csv")
    assert set(networks.variant) == set(NETWORKS)
    assert set(pd.read_csv(metrics / "network_layers.csv").variant) == set(NETWORKS)
    listing = (metrics / "networks.txt").read_text()
    assert all(name in listing for name in NETWORKS)


def test_every_computing_rule_leaves_a_log_and_a_benchmark(finished):
    results = finished / "results/tiny"
    logs = {path.relative_to(results / "logs").with_suffix("") for path in results.glob("logs/**/*.log")}
    marks = {
        path.relative_to(results / "benchmarks").with_suffix("")
        for path in results.glob("benchmarks/**/*.tsv")
    }
    assert logs == marks
    assert len(logs) > 40


def test_no_state_of_a_finished_training_is_left(finished):
    assert len(list(finished.glob("results/tiny/models/*/*/*/model.pt"))) == len(NETWORKS)
    assert not list(finished.glob("results/tiny/checkpoints/**/*.pt"))


def test_jobs_on_gpus_are_no_more_than_there_are(run, monkeypatch):
    tool = run / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: a'\necho 'GPU 1: b'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{run}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    target = "results/tiny/config.yaml"
    assert re.search(r"Provided resources: gpu=\D*2", snakemake(run, "--force", targets=[target]))
    given = snakemake(run, "--force", "--resources", "gpu=8", targets=[target])
    assert re.search(r"Provided resources: gpu=\D*8", given)
    model = ["results/tiny/models/exp_gauss/shearnet/seed1/model.pt"]
    assert "gpu=1" in snakemake(run, "--dry-run", "--force", targets=model)
    both = snakemake(run, "--dry-run", "--force", "--set-resources", "train:gpu=2", targets=model)
    assert re.search(r"resources: (?=.*gpu=2\b)(?=.*mem_mb=16\d\d\d\b)", both)


def test_the_manifest_names_every_output_as_it_is(run):
    from shearbench.paper.manifest import verify

    manifest = run / "results/tiny/manifest.json"
    assert verify(manifest) == []
    for name in ("model.pt", "stamps/exp_gauss/train/0.h5", "stamps/exp_gauss/train/2.h5", *METRICS):
        assert name in manifest.read_text()
    (run / "results/tiny/tables/accuracy.tex").write_text("other")
    (different,) = verify(manifest)
    assert "tables/accuracy.tex" in different


def test_the_resolved_config_does_the_run_again(finished, run):
    resolved = yaml.safe_load((run / "results/tiny/config.yaml").read_text())
    assert resolved["training"]["batch_size"]
    shutil.copy(run / "results/tiny/config.yaml", run / "config/tiny.yaml")
    assert planned(run) == {}


def test_figures_are_redrawn_from_the_metrics_alone(finished, tmp_path):
    copy_workflow(tmp_path)
    kept = tmp_path / "results/tiny"
    shutil.copytree(finished / "results/tiny/metrics", kept / "metrics", copy_function=shutil.copyfile)
    # One of the run, one of a network, and one of a population, with arrays.
    names = ["accuracy", "inside_features_exp_gauss_shearnet", "gallery_exp_gauss"]
    rules = [f"figure_{name}" for name in entries()]
    targets = [f"results/tiny/figures/{name}.png" for name in names]
    snakemake(tmp_path, "--forceall", "--allowed-rules", *rules, targets=targets)
    for name in names:
        drawn = (kept / f"figures/{name}.png").read_bytes()
        assert drawn == (finished / f"results/tiny/figures/{name}.png").read_bytes(), name
    assert not (kept / "stamps").exists()


def test_chunks_do_not_change_a_pixel(finished, run):
    text = (run / "config/tiny.yaml").read_text()
    (run / "config/tiny.yaml").write_text(text.replace("chunk_stamps: 100", "chunk_stamps: 37"))
    wanted = [f"results/tiny/stamps/exp_gauss/test/{k}.h5" for k in range(3)]
    snakemake(run, "--force", targets=wanted)

    def pixels(folder):
        files = sorted((folder / "results/tiny/stamps/exp_gauss/test").glob("*.h5"))
        return np.concatenate([h5py.File(path)["images"][:] for path in files])

    assert len(list((run / "results/tiny/stamps/exp_gauss/test").glob("*.h5"))) == 3
    np.testing.assert_array_equal(pixels(run), pixels(finished))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("noise_level: [1e-3]\n", "did you mean 'noise_levels'"),
        ("variants: {pooledd: {}}\n", "did you mean 'pooled'"),
        ("noise_levels: [-1]\n", "noise_levels.0"),
        ("populations: {cosmos: {catalogue_file: nowhere.fits}}\n", "nowhere.fits"),
        ("studies: [downsamplin]\n", "downsampling"),
        (
            "populations: {x: {base: exp_gauss}, bins_x: {base: exp_gauss}}\n",
            "'bins_x' and 'x' would both have a figure called shear_bias_bins_x",
        ),
    ],
)
def test_a_wrong_config_stops_before_any_job_without_a_traceback(tmp_path, text, says):
    copy_workflow(tmp_path)
    (tmp_path / "config/tiny.yaml").write_text(text)
    output = snakemake(tmp_path, check=False)
    assert says in output
    assert "Traceback" not in output
    assert not (tmp_path / "results").exists()


def test_planning_needs_none_of_the_packages_of_the_jobs():
    # With conda, the workflow is planned where torch, galsim and pandas are not.
    text = (ROOT / "workflow/rules/common.smk").read_text()
    imports = re.findall(r"^from shearbench[\w.]* import (?:\([^)]*\)|.+)$", text, re.MULTILINE)
    assert len(imports) > 5
    heavy = ["torch", "galsim", "pandas", "numpy", "numba", "h5py", "pyarrow", "matplotlib", "scipy"]
    lines = [
        f"import sys; sys.modules.update(dict.fromkeys({heavy}))",
        "from shearbench.config.reading import load",
        *imports,
        "config = load('config/config.yaml', 'config/paper.yaml')",
        "studies = plan_studies('config/studies', config).known",
        "assert all(config.estimator(name).modules() for name in config.estimators) and studies",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, check=True)


def test_the_workflow_is_lint_clean():
    snakemake(ROOT, "--lint")
