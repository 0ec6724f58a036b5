"""The directions of the imports, asserted from the imports themselves."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from shearbench.tools.structure import FLOORS, GROUND, SOURCE, circles, imports, modules, upward_imports


def test_there_is_no_circle_of_imports():
    assert circles() == []


def test_no_import_runs_from_a_lower_floor_to_a_higher_one():
    assert upward_imports() == []


def test_every_module_is_in_a_room_or_on_the_ground():
    known = {room for rooms in FLOORS for room in rooms}
    loose = {name for name in modules() if "." not in name} - known - set(GROUND)
    assert loose == set()
    files = {path.stem for path in SOURCE.glob("*.py")} - {"__init__"}
    assert files <= set(GROUND), "only the ground is beside the packages"


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith("training")])
def test_training_has_no_word_of_shear(module):
    text = modules()[module].read_text(encoding="utf-8")
    assert re.findall(r"(?!shearbench)\b\w*shear\w*|\bg[12]\b", text, re.IGNORECASE) == []


def test_figures_and_paper_read_tables_and_nothing_else():
    rooms = ("figures", "paper")
    used = {other for name in modules() if name.split(".")[0] in rooms for other in imports(name)}
    allowed = {*GROUND, *rooms, "evaluation", "jobs"}
    assert {other for other in used if other.split(".")[0] not in allowed} == set()


def test_modules_that_planning_imports_leave_heavy_packages_alone():
    heavy = ["torch", "galsim", "numba", "matplotlib", "numpy", "pandas", "pyarrow", "h5py", "scipy"]
    heavy += ["optuna", "sqlalchemy"]
    code = (
        "import sys; import shearbench.config.studies, shearbench.plan.run, shearbench.plan.digests, "
        f"shearbench.plan.records; print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_study_is_evaluated_without_a_package_that_takes_longer_to_import():
    code = (
        "import sys; import shearbench.bounds.cramer_rao, shearbench.evaluation.accuracy, "
        "shearbench.evaluation.study; heavy = ['scipy.stats', 'torch', 'galsim']; "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_diagram_of_the_data_names_rules():
    page = (SOURCE.parents[1] / "docs/architecture.md").read_text(encoding="utf-8")
    drawn = page.split("```mermaid")[1].split("```")[0]
    rules = {
        name
        for path in (SOURCE.parents[1] / "workflow/rules").glob("*.smk")
        for name in re.findall(
            r"^(?:use rule \w+ as|rule) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    nodes = set(re.findall(r"^ +(\w+) -->", drawn, re.MULTILINE)) | set(
        re.findall(r"(\w+)$", drawn, re.MULTILINE)
    )
    assert nodes - {"LR"} <= rules
    assert len(nodes) > 15
