"""External files: after a change of their contents, the stamps drawn from them are made again."""

from __future__ import annotations

import shutil

import galsim
import numpy as np
import yaml
from checkout import ROOT, copy_workflow
from conftest import planned, snakemake

DATA = ROOT / "tests/data/galsim"


def write_psf(path, fwhm):
    image = galsim.Moffat(beta=2.5, fwhm=fwhm).drawImage(nx=33, ny=33, scale=0.2, dtype=np.float64)
    image.write(str(path))


def test_other_contents_of_the_same_size_are_noticed(tmp_path):
    copy_workflow(tmp_path)
    for path in DATA.glob("*_catalog*.fits"):
        shutil.copy(path, tmp_path)
    for path in DATA.glob("AEGIS*images*.fits"):
        shutil.copy(path, tmp_path)
    shutil.copy(DATA / "acs_I_unrot_sci_cf.fits", tmp_path)
    shutil.copy(DATA / "acs_V_unrot_sci_cf.fits", tmp_path)
    write_psf(tmp_path / "psf.fits", 0.6)
    config = yaml.safe_load((tmp_path / "config/tiny.yaml").read_text())
    config["stamps"]["size_pixels"] = 48
    config["training"]["data"] = "stored"  # images cannot be rendered
    config["populations"] = {
        "imaged": {"base": "exp_gauss", "psf": {"profile": "image", "image_file": "psf.fits"}},
        "fitted": {"base": "cosmos", "catalogue_file": "real_galaxy_catalog_23.5_example.fits"},
        "real": {
            "base": "cosmos",
            "profile": "cosmos-real",
            "catalogue_file": "AEGIS_F606w_catalog.fits",
            "half_light_radius_arcsec": [0.05, 1.2],
        },
    }
    (tmp_path / "config/tiny.yaml").write_text(yaml.safe_dump(config))
    targets = [f"results/tiny/catalogs/{name}/test.parquet" for name in ("imaged", "fitted", "real")]
    snakemake(tmp_path, targets=targets)
    assert planned(tmp_path, targets) == {}

    size = (tmp_path / "psf.fits").stat().st_size
    write_psf(tmp_path / "psf.fits", 0.9)
    assert (tmp_path / "psf.fits").stat().st_size == size
    assert planned(tmp_path, targets) == {"sample_catalog": 1}
    write_psf(tmp_path / "psf.fits", 0.6)
    assert planned(tmp_path, targets) == {}

    for name in ("real_galaxy_catalog_23.5_example_fits.fits", "AEGIS_F606w_images_02.fits"):
        content = bytearray((tmp_path / name).read_bytes())
        content[-3000] ^= 1
        (tmp_path / name).write_bytes(content)
    assert planned(tmp_path, targets) == {"sample_catalog": 2}

    (tmp_path / "AEGIS_F606w_images_02.fits").unlink()
    output = snakemake(tmp_path, "--dry-run", check=False)
    assert "populations.real.catalogue_file: AEGIS_F606w_images_02.fits cannot be read" in output
    assert "Traceback" not in output
