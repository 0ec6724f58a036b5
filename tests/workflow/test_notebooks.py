"""The notebooks, run on the tiny run as the programs that they are, and in Jupyter where it is installed."""

from __future__ import annotations

import re
import runpy
import shutil

import pytest
from checkout import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


def test_all_notebooks_are_text_with_cells_and_no_outputs_are_kept():
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "notebooks/README.md").read_text(), re.MULTILINE)
    assert [path.stem for path in NOTEBOOKS] == sorted(listed)
    assert "/notebooks/*.ipynb" in (ROOT / ".gitignore").read_text()
    for path in NOTEBOOKS:
        assert path.read_text().startswith("# %% [markdown]\n# # ")
        compile(path.read_text(), path.name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_on_the_tiny_run(path, finished, monkeypatch):
    monkeypatch.setenv("RUN", str(finished / "results/tiny"))
    runpy.run_path(str(path))


@pytest.mark.slow
def test_it_runs_in_jupyter(finished, tmp_path, monkeypatch):
    jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed: pip install '.[notebooks]'")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install '.[notebooks]'")
    monkeypatch.setenv("RUN", str(finished / "results/tiny"))
    shutil.copy(ROOT / "notebooks/quick_start.py", tmp_path)
    notebook = jupytext.read(tmp_path / "quick_start.py")
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown), "the figure is shown"
