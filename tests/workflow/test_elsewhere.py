"""The workflow in a folder with an odd name, and as a module of another workflow."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import preloaded
import pytest
from checkout import copy_workflow

IMPORTER = """
configfile: {checkout!r} + "/config/config.yaml"
configfile: {checkout!r} + "/config/tiny.yaml"

module shearbench:
    snakefile: {checkout!r} + "/workflow/Snakefile"
    config: config

use rule * from shearbench{prefixed}

rule mine:
    default_target: True
    input: rules.{prefix}all.input

onstart:
    shearbench.onstart()

onsuccess:
    shearbench.onsuccess()
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Return a checkout with an interpreter, with a path that a shell must quote."""
    folder = tmp_path_factory.mktemp("odd") / "a b'c$d"
    folder.mkdir()
    copy_workflow(folder)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def test_jobs_run_in_a_folder_with_a_space_a_quote_and_a_dollar_sign(checkout):
    target = "results/tiny/config.yaml"
    python = checkout / ".venv" / Path(sys.executable).relative_to(sys.prefix)
    command = [python, "-m", "snakemake", "--cores", "1", "--configfile", "config/tiny.yaml", "--", target]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert (checkout / target).is_file()


def test_braces_in_the_path_are_refused_with_the_reason(checkout):
    moved = checkout.with_name("a{b}")
    moved.mkdir()
    copy_workflow(moved)
    status, words = preloaded.run(moved, "--dry-run")
    assert status != 0
    assert "braces" in words
    assert "Traceback" not in words


@pytest.mark.parametrize("prefix", ["", "sb_"])
def test_another_workflow_uses_it_as_a_module(checkout, tmp_path, prefix):
    text = IMPORTER.format(checkout=str(checkout), prefix=prefix, prefixed=f" as {prefix}*" if prefix else "")
    (tmp_path / "Snakefile").write_text(text)
    status, words = preloaded.run(tmp_path, "--dry-run")
    assert status == 0, words[-4000:]
    assert re.search(rf"^{prefix}manifest +1$", words, re.MULTILINE)
    if prefix:
        # Its scripts are found, and so are the studies.
        targets = ["results/tiny/config.yaml", f"{prefix}save_config"]
        status, words = preloaded.run(tmp_path, "--cores", "1", *targets)
        assert status == 0, words[-4000:]
        assert (tmp_path / "results/tiny/config.yaml").is_file()
        assert (tmp_path / "results/tiny/.lock").is_file()


def test_a_folder_without_a_configuration_gets_that_of_the_checkout(checkout, tmp_path):
    start = ["-n", "--quiet", "rules", "-s", str(checkout / "workflow/Snakefile")]
    target = "results/quick/config.yaml"
    status, words = preloaded.run(tmp_path, *start, "--", target)
    assert status == 0, words[-4000:]
    assert f"{checkout}/config/config.yaml" in words
