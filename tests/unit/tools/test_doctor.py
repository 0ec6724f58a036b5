"""The report on a machine, with and without what a run can use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shearbench.errors import ConfigError
from shearbench.tools.doctor import examine, left_out, main, report

ROOT = Path(__file__).parents[3]


def by_name(**given):
    return {one.name: one for one in examine(**given)}


def test_a_bare_machine_is_told_what_it_lacks():
    found = by_name(which=lambda name: None, importable=lambda name: False, gpus=list, version=(3, 10, 2))
    assert found["Python"].fatal
    assert found["packages"].meaning.endswith("make results installs them into .venv")
    assert found["ngmix"].meaning.startswith("the estimators ngmix-* are left out")
    assert {found[name].found for name in ("GPU", "conda", "LaTeX", "SLURM")} == {"none"}
    assert "make results PYTHON=" in report(list(found.values()))


def test_a_machine_with_everything_lacks_nothing():
    found = by_name(which=str, importable=lambda name: True, gpus=lambda: ["A100"], version=(3, 13, 0))
    assert not any(one.fatal for one in found.values())
    assert found["GPU"].found == "A100"
    assert found["ngmix"] == ("ngmix", "installed", "", False)
    text = report(list(found.values()))
    assert "left out" not in text
    assert "missing" not in text


def test_with_conda_ngmix_is_installed_by_a_run():
    found = by_name(which=lambda name: name == "mamba" or None, importable=lambda name: name != "ngmix")
    assert found["ngmix"].meaning == "make results installs it with mamba"


def test_it_runs_before_any_package_is_installed():
    """Without site-packages (-S), as on a machine where `make results` has not been started."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-S", "-m", "shearbench.tools.doctor"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "make results installs them" in done.stdout


def test_outside_a_clone_it_reports_the_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main()
    assert capsys.readouterr().out.endswith("this also says what a run leaves out.\n")


def test_what_a_configuration_leaves_out_is_what_the_workflow_leaves_out(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    run, reasons = left_out("config/tiny.yaml")
    assert run == "tiny"
    assert {"ngmix-exp", "ngmix-gauss"} <= set(reasons)
    with pytest.raises(ConfigError):
        left_out("config/absent.yaml")
