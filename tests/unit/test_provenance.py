import pytest

from shearbench import provenance
from shearbench.provenance import code_digest, digest


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


def fresh(package, modules=()):
    for cached in (code_digest, provenance._normalised, provenance._imports):
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


def test_modules_found_by_name_are_given(package):
    before = fresh(package, ["shearbench.networks.pooled"])
    (package / "shearbench/networks/pooled.py").write_text("width = 4\n")
    assert fresh(package, ["shearbench.networks.pooled"]) != before
    with pytest.raises(ModuleNotFoundError, match="pooledd"):
        fresh(package, ["shearbench.networks.pooledd"])


def test_digests_do_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1e-5, None]}) == digest({"b": [1e-5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
