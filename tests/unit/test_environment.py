"""All files that name versions of packages agree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
# What conda-forge calls some packages.
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def lock():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {
        r.name.lower().replace("_", "-"): r.specifier
        for r in map(Requirement, filter(lambda line: line and line[0] != "#", lines))
    }


def test_everything_is_pinned_once_and_to_one_version():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert len(lock()) == len(lines)


def test_the_lock_has_all_that_the_package_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    for requirement in map(Requirement, wanted):
        pin = next(iter(lock()[requirement.name.lower()]))
        assert requirement.specifier.contains(pin.version), requirement


@pytest.mark.parametrize("name", ["shearbench", "ngmix", "frameworks"])
def test_the_environments_pins_are_the_locks(name):
    environment = yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    lines = [line for line in environment["dependencies"] if isinstance(line, str)]
    pins = dict(line.split(" ==") for line in lines if " ==" in line)
    assert pins.pop("ngmix", "2.4.2") == "2.4.2"
    for package, version in pins.items():
        assert str(lock()[CONDA_NAMES.get(package, package)]) == f"=={version}", package


def test_the_environment_of_the_frameworks_has_the_optional_packages_and_nothing_else_does():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {r.name: r for r in map(Requirement, project["optional-dependencies"]["frameworks"])}
    environment = yaml.safe_load((ROOT / "envs/frameworks.yaml").read_text())
    (own,) = (line["pip"] for line in environment["dependencies"] if isinstance(line, dict))
    pins = dict(line.split("==") for line in own)
    assert pins.keys() == wanted.keys()
    assert all(wanted[name].specifier.contains(version) for name, version in pins.items())
    assert not pins.keys() & lock().keys()


def test_torch_is_pinned_in_the_lock_alone():
    texts = [path.read_text() for path in (ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / ".ci/run")]
    assert not any(re.search(r"torch==\d", text) for text in texts)
    assert not any(re.search("nvidia|cuda", line) for line in lock())


@pytest.mark.parametrize("recipe", ["Dockerfile", "shearbench.def"])
def test_containers_are_built_from_the_lock(recipe):
    text = (ROOT / "envs" / recipe).read_text()
    (version,) = re.findall(r"(?:FROM|From:) python:(3\.\d+)-slim", text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(f"{version}.0")
    assert "pip install --no-cache-dir -r requirements.lock" in text
    assert "pip install --no-cache-dir --no-deps --editable ." in text
    assert "--snakefile /opt/shearbench/workflow/Snakefile" in text.replace('", "', " ")


def test_the_actions_of_github_use_targets_that_exist_and_the_versions_of_python_that_are_supported():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    makefile = (ROOT / "Makefile").read_text()
    steps = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = {target for run in steps for target in re.findall(r"make (\w+)", run)}
    assert {"lint", "doctor", "results", "test", "archive", "site"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
