import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from moving import move_modules

from shearbench.jobs import provenance
from shearbench.jobs.provenance import code_digest, digest

CACHED = ("find", "contents", "own_text", "parsed", "parser", "known")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Lay out a small package and make `provenance` look at it."""
    root = tmp_path / "shearbench"
    (root / "networks").mkdir(parents=True)
    files = {
        "script.py": "from shearbench.fit import fit\nimport numpy\n",
        "shearbench/__init__.py": "",
        "shearbench/fit.py": "def fit():\n    from shearbench import kernels\n    return kernels.x\n",
        "shearbench/kernels.py": "x = 1\n",
        "shearbench/unused.py": "y = 1\n",
        "shearbench/networks/__init__.py": "",
        "shearbench/networks/pooled.py": "width = 3\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "_SOURCE", root)
    return tmp_path


def write(package, **files):
    """Write modules of the small package, the script among them."""
    for name, text in files.items():
        folder = package if name == "script" else package / "shearbench"
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def fresh(package, modules=()):
    for cached in (code_digest, *(getattr(provenance, f"_{name}") for name in CACHED)):
        cached.cache_clear()
    return code_digest(str(package / "script.py"), tuple(modules))


@pytest.mark.parametrize(
    ("file", "text", "matters"),
    [
        ("shearbench/kernels.py", "x = 2\n", True),
        ("shearbench/kernels.py", "# why\nx  =  1  # same\n", False),
        (
            "shearbench/fit.py",
            '"""Doc."""\ndef fit():\n  """Fit."""\n  from shearbench import kernels\n  return kernels.x',
            False,
        ),
        ("shearbench/unused.py", "y = 2\n", False),
        ("shearbench/networks/pooled.py", "width = 4\n", False),
        ("script.py", "from shearbench.fit import fit\nimport numpy\nfit()\n", True),
    ],
)
def test_code_counts_where_the_script_reaches_it(package, file, text, matters):
    before = fresh(package)
    (package / file).write_text(text)
    assert (fresh(package) != before) == matters


def test_docstrings_of_attributes_do_not_count(package):
    before = fresh(package)
    write(package, kernels='x = 1\n"""What x is."""\n')
    assert fresh(package) == before


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        # The same module by another name, in another place, at another place of the file.
        ("from pkg import a\na.f()", "from pkg import a as b\nb.f()", True),
        ("from pkg import a\na.f()", "import pkg.a\npkg.a.f()", True),
        ("from pkg import a\na.f()", "from pkg.room import a_moved\na_moved.f()", True),
        ("from pkg.a import f\nf()", "from pkg.room.a_moved import f\nf()", True),
        ("import numpy\nfrom pkg.a import f\nf()", "from pkg.a import f\nimport numpy\nf()", True),
        ("from pkg.a import f, g\nf()", "from pkg.a import g\nfrom pkg.a import f\nf()", True),
        ("run('pkg.a')", "run('pkg.room.a_moved')", True),
        ("raise OSError('see pkg.a.f')", "raise OSError('see pkg.room.a_moved.f')", True),
        # Another module, though both are in use.
        ("from pkg import a, b\na.f(); b", "from pkg import a, b\nb.f(); a", False),
        ("from pkg.a import f\nimport pkg.b", "from pkg.b import f\nimport pkg.a", False),
        ("import pkg.a, pkg.b\npkg.a.f()", "import pkg.a, pkg.b\npkg.b.f()", False),
        ("from pkg.a import f as h, g", "from pkg.a import g as h, f", False),
        ("import pkg.a, pkg.b\nrun('pkg.a')", "import pkg.a, pkg.b\nrun('pkg.b')", False),
        ("import numpy as n", "import scipy as n", False),
        ("from pkg.a import f", "from pkg.a import f\nf()", False),
    ],
)  # fmt: skip
def test_modules_count_by_their_contents(package, one, other, same):
    text = "def f():\n    return 1\ndef g():\n    return 2\n"
    write(package, a=text, b=text.replace("1", "3"), room__a_moved=text)
    (package / "shearbench/room/__init__.py").touch()
    write(package, script=one.replace("pkg", "shearbench"))
    before = fresh(package)
    write(package, script=other.replace("pkg", "shearbench"))
    assert (fresh(package) == before) == same


@pytest.mark.parametrize(
    "text",
    [
        "from shearbench.fit import fit",
        "from shearbench import fit",
        "import shearbench.fit",
        "import shearbench.fit as found",
        "def f():\n    from shearbench.fit import fit",
        "from shearbench import networks\nnetworks.pooled.fit",
        "try:\n    from shearbench.networks import relative\nexcept ImportError:\n    relative = None",
        "from shearbench import again\nagain.fit()",
    ],
)
def test_every_way_to_import_is_followed(package, text):
    write(
        package,
        script=text,
        networks__pooled="from shearbench.fit import fit",
        networks__relative="from ..fit import fit\nfrom . import pooled",
        again="from shearbench.fit import fit as fit",
    )
    before = fresh(package)
    write(package, kernels="x = 2\n")
    assert fresh(package) != before


def test_what_only_type_checkers_import_does_not_count(package):
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from shearbench.fit import fit\n"
    write(package, script=guarded)
    before = fresh(package)
    write(package, kernels="x = 2\n")
    assert fresh(package) == before
    write(package, script=guarded + "else:\n    from shearbench import kernels\n")
    before = fresh(package)
    write(package, kernels="x = 3\n")
    assert fresh(package) != before


def test_exempt_modules_are_named_in_full(package, monkeypatch):
    monkeypatch.setattr(provenance, "NO_RESULT", frozenset({"shearbench.kernels"}))
    write(package, script="from shearbench.networks.kernels import y\nfrom shearbench.kernels import x\nx, y")
    write(package, networks__kernels="y = 1\n")
    before = fresh(package)
    write(package, kernels="x = 2\n")
    assert fresh(package) == before
    write(package, networks__kernels="y = 2\n")
    assert fresh(package) != before


def test_the_exempt_modules_are_there_and_packages_only_define():
    for name in provenance.NO_RESULT:
        assert provenance._find(name), name
    # Packages on the way to a module are not counted: importing them must do nothing else.
    allowed = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign)
    for path in provenance._SOURCE.rglob("__init__.py"):
        for statement in ast.parse(path.read_text()).body:
            docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            typing = isinstance(statement, ast.If) and provenance._for_type_checkers(statement)
            assert docstring or typing or isinstance(statement, allowed), f"{path}:{statement.lineno}"


DIGESTS = """
from pathlib import Path
from shearbench.config.reading import load
from shearbench.jobs.provenance import _SOURCE, code_digest
root = _SOURCE.parents[1]
config = load(root / "config/config.yaml", root / "config/paper.yaml")
models = [*map(config.estimator, config.estimators), *(v.make() for v in config.variants.values())]
for script in sorted((root / "scripts").glob("*.py")):
    print(script.stem, code_digest(str(script)))
for model in models:
    print(model.kind, code_digest(str(root / "scripts/measure.py"), model.modules()))
"""


def test_moving_and_renaming_modules_changes_no_digest(tmp_path):
    root = Path(__file__).parents[3]
    for name in ("src", "scripts", "config"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    def digests():
        done = subprocess.run(
            [sys.executable, "-c", DIGESTS],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(tmp_path / "src")},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    before = digests()
    moves = {
        f"shearbench.{old}": f"shearbench.{new}"
        for old, new in {
            "forward_model.fourier": "attic.fourier",
            "data.noise": "attic.random_pixels",
            "bounds.cramer_rao": "attic.deep.bounds",
            "jobs.job": "attic.work",
            "measurement.mixture.kernels": "attic.kernels",
            "training.launch": "attic.launch",
        }.items()
    }
    move_modules(tmp_path, moves)
    assert digests() == before
    (module,) = tmp_path.glob("src/shearbench/attic/kernels.py")
    module.write_text(module.read_text() + "\n_CHANGED = True\n")
    changed = {line.split()[0] for line, old in zip(digests(), before) if line != old}
    assert {"mixture", "draw_gallery"} <= changed
    assert not {"hsm", "simulate_stamps", "cramer_rao"} & changed


def test_modules_found_by_name_are_given(package):
    before = fresh(package, ["shearbench.networks.pooled"])
    (package / "shearbench/networks/pooled.py").write_text("width = 4\n")
    assert fresh(package, ["shearbench.networks.pooled"]) != before
    with pytest.raises(ModuleNotFoundError, match="pooledd"):
        fresh(package, ["shearbench.networks.pooledd"])


def test_digests_do_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1e-5, None]}) == digest({"b": [1e-5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_files_are_parsed_once_for_all_processes(package, monkeypatch):
    saves = []
    monkeypatch.setattr(provenance.atexit, "register", lambda *save: saves.append(save))
    parse, parsed = ast.parse, []
    monkeypatch.setattr(ast, "parse", lambda *args, **kwargs: parsed.append(args) or parse(*args, **kwargs))

    def after(damage=lambda kept: None):
        """Return the digest that the next process has, and how many files it parses."""
        if saves:
            save, *arguments = saves.pop()
            save(*arguments)
            damage(arguments[0])
        parsed.clear()
        return fresh(package), len(parsed)

    first, count = after()
    assert count == 3
    assert after() == (first, 0)
    write(package, kernels="x = 2\n")
    other, count = after()
    assert other != first
    assert count == 1
    # What was cut short or changed is not used; where nothing can be written, all is as without.
    assert after(lambda kept: kept.write_text(kept.read_text()[:-9])) == (other, 3)
    assert after(lambda kept: kept.write_text(kept.read_text().replace("x = 2", "x = 3"))) == (other, 3)
    assert after(lambda kept: kept.unlink() or kept.mkdir()) == (other, 3)
    assert after() == (other, 3)
    # A new module may change to what a name refers.
    after(lambda kept: kept.rmdir())
    write(package, more="")
    assert after()[1] == 3
