"""The workflow reads the configuration from a file or from the command line."""

from __future__ import annotations

import preloaded
from checkout import copy_workflow

from shearbench.config.reading import load

HALF_WRITTEN = "question: q?\nbase: whitened\nvalues: {a: {}, b: {}}\nseeds: [1"
TARGET = "results/tiny/config.yaml"


def snakemake(folder, *options):
    """Run snakemake in a folder, and return its exit status and its output."""
    return preloaded.run(folder, "--cores", "1", *options)


def test_files_and_arguments_are_read_in_one_way_by_planning_and_by_jobs(tmp_path):
    copy_workflow(tmp_path)
    studies = tmp_path / "config/studies"
    (studies / "half.yaml").write_text(HALF_WRITTEN)
    (studies / "._half.yaml").write_bytes(b"\x00\x05\x16\x07\xff")
    (studies / ".#half.yaml").symlink_to("user@host.1234")
    # hsm-ksb is null in tiny.yaml; 1e0 is text for YAML 1.1.
    (tmp_path / "b.yaml").write_text("estimators: {hsm-ksb: {}}\npopulations: {exp_gauss: {flux: 1e0}}\n")
    files = ["--configfile", "config/tiny.yaml", "b.yaml"]
    given = [*files, "--config", "noise_levels=[1e-5, 2e-2]", "bootstrap=60"]
    status, words = snakemake(tmp_path, *given, "--", TARGET)
    assert status == 0, words[-4000:]
    config = load(tmp_path / "config/config.yaml", tmp_path / TARGET)
    assert "hsm-ksb" in config.estimators
    assert config.populations["exp_gauss"].flux == (1, 1)
    assert config.noise_levels == (1e-5, 2e-2)
    assert config.bootstrap == 60
    # The same again is no change.
    assert "Nothing to be done" in snakemake(tmp_path, *given, "--", TARGET)[1]
    # The study that cannot be read is told where it is asked for.
    status, words = snakemake(tmp_path, *files, "--dry-run", "--", "study_half")
    assert status != 0
    assert "config/studies/half.yaml: line " in words
    status, words = snakemake(tmp_path, *files, "--dry-run", "--config", "studies=[half]")
    assert status != 0
    assert "config/studies/half.yaml: line " in words
    assert "Traceback" not in words


def test_a_mistake_is_named_with_its_file_whatever_file_it_is_in(tmp_path):
    copy_workflow(tmp_path)
    path = tmp_path / "config/config.yaml"
    path.write_text(f"{path.read_text()}\nseed: 2\n")
    status, words = snakemake(tmp_path, "--dry-run")
    assert status != 0
    assert "config/config.yaml: line " in words
    assert "the key 'seed' is given twice" in words
    assert "Traceback" not in words
    path.write_text(path.read_text().removesuffix("seed: 2\n"))
    status, words = snakemake(tmp_path, "--dry-run", "--config", "seed=0100")
    assert status != 0
    assert "--config seed: line 1: 0100 is not a decimal number" in words
    assert "Traceback" not in words
