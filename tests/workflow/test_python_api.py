"""The tiny run in Python: tables, figures, and networks as functions of arrays."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT

import shearbench as sb
from shearbench.api.runs import FinishedRun
from shearbench.data.stamps import read_stamps
from shearbench.errors import ContractError, ShearbenchError
from shearbench.figures.catalogue import entries
from shearbench.files.tables import read_table
from shearbench.plan.digests import MADE_BY

SIGMA = 1e-5


@pytest.fixture(scope="module")
def folder(finished):
    return finished / "results/tiny"


@pytest.fixture(scope="module")
def tiny(folder):
    return sb.load_run(folder)


@pytest.fixture(scope="module")
def batch(tiny, folder):
    stamps = read_stamps(folder / "stamps/exp_gauss/test/index.json")
    return next(iter(stamps.batches(SIGMA, tiny.config.seed, 40)))


def test_importing_the_package_imports_no_heavy_one():
    code = (
        "import sys, shearbench as sb; assert 'load_run' in dir(sb); "
        "print({'torch', 'pandas', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_no_attribute_of_a_run_has_the_name_of_a_table(tiny):
    reads = {name for entry in entries().values() for name in (*entry.reads, *entry.reads_if_made)}
    tables = {Path(name).stem for name in (*MADE_BY, *reads)}
    assert tables & ({*dir(FinishedRun), *vars(tiny)} - {*tiny.tables}) == set()


def test_tables_are_those_of_the_run(tiny, folder, run):
    assert set(tiny.accuracy["estimator"]) >= {"mixture-exp", "refined"}
    assert tiny.residuals.equals(tiny.table("residuals"))
    assert {"accuracy", "residuals"} <= set(dir(tiny))
    with pytest.raises(AttributeError, match="did you mean 'accuracy'"):
        tiny.acuracy  # noqa: B018
    with pytest.raises(ShearbenchError, match=r"no table 'acuracy' .did you mean 'accuracy'"):
        tiny.table("acuracy")
    with pytest.raises(ShearbenchError, match="no run in this folder"):
        sb.load_run(folder / "metrics")
    changed = run / "results/tiny/metrics/accuracy.csv"
    changed.write_text(changed.read_text().replace("mixture", "fixture"))
    with pytest.raises(ContractError, match=r"accuracy\.csv"):
        sb.load_run(run / "results/tiny").accuracy  # noqa: B018


def test_a_run_offers_the_figures_that_its_workflow_drew(tiny):
    assert {name: figure.populations for name, figure in tiny.plan.figures.items()} == tiny.figures
    with pytest.raises(ShearbenchError, match="did you mean 'residuals'"):
        tiny.figure("residual")
    with pytest.raises(ShearbenchError, match=r"'exp_gaus'.*expected one of exp_gauss"):
        tiny.figure("residuals", "exp_gaus")


def test_a_network_of_a_run_measures_as_the_run_did(tiny, folder, batch):
    network = tiny.network("refined")
    shapes, errors = network(batch.images, batch.psf, SIGMA)
    table = read_table(folder / f"estimates/exp_gauss/test/{SIGMA:g}/refined.seed1.parquet", (), "predict")
    np.testing.assert_allclose(shapes, table[["g1", "g2"]].to_numpy()[:40], atol=1e-5)
    np.testing.assert_allclose(errors, table[["g1_err", "g2_err"]].to_numpy()[:40], rtol=1e-3)
    assert network.noise_range == (1e-5, 1e-2)
    assert "refined, seed 1, trained on exp_gauss: 24 x 24 pixels" in repr(network)

    # One stamp, a noise and a PSF for each stamp, a PSF of another flux, a stamp with NaN.
    one, error = network(batch.images[3], 7 * batch.psf, SIGMA)
    assert one.shape == error.shape == (2,)
    np.testing.assert_allclose(one, shapes[3], atol=1e-5)
    images = batch.images[:5].copy()
    images[1, 0, 0] = np.nan
    several = network(images, np.repeat(batch.psf[None], 5, 0), np.full(5, SIGMA))[0]
    assert np.isnan(several[1]).all()
    np.testing.assert_allclose(np.delete(several, 1, 0), np.delete(shapes[:5], 1, 0), atol=1e-5)
    assert network(images[:0], batch.psf, SIGMA)[0].shape == (0, 2)


def test_wrong_arrays_are_named(tiny, batch):
    network = tiny.network("shearnet")
    images, psf = batch.images[:2], batch.psf
    for arguments, message in (
        ((images[:, 1:], psf, SIGMA), r"images: found the shape \(2, 23, 24\), expected \(n, 24, 24\)"),
        (
            (images, np.stack([psf] * 3), SIGMA),
            r"psf: found the shape \(3, 24, 24\), expected \(m, m\) or \(2",
        ),
        ((images, psf, [SIGMA] * 3), r"sigma: found the shape \(3,\)"),
        ((images, psf, 0.0), "sigma: the noise must be positive"),
        ((images, 0 * psf, SIGMA), "psf: its pixels must be finite, and its flux positive"),
    ):
        with pytest.raises(ShearbenchError, match=message):
            network(*arguments)
    with pytest.raises(ShearbenchError, match=r"no trained network shearnet .population exp_gauss, seed 9"):
        tiny.network("shearnet", seed=9)


@pytest.mark.parametrize(
    ("page", "makes"),
    [
        ("python", "residuals.pdf"),
        pytest.param("paper", "accuracy.pdf", marks=pytest.mark.slow),
        ("tutorial", None),
    ],
)
def test_the_examples_of_the_documentation_run(page, makes, folder, tmp_path, monkeypatch, capsys):
    """Those of a page are one after the other one program, here on the tiny run."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block.replace("results/quick", str(folder)), names)
    if makes:
        assert (tmp_path / makes).stat().st_size > 10000
    else:
        assert "rmse_over_crb" in capsys.readouterr().out
