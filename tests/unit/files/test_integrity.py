"""Damaged files are refused: flipped bits, other origins, missing rows, references to other files."""

from __future__ import annotations

import errno
import json
import random
import shutil
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from simulated import SCALE, SIDE, make_split

from shearbench.bounds.bayes_floor import POSTERIOR, read_posterior
from shearbench.bounds.cramer_rao import cramer_rao, read_bounds
from shearbench.data.catalogs import read_catalog, read_catalog_rows
from shearbench.data.estimates import read_estimates, write_estimates
from shearbench.data.stamps import read_stamps, write_index, write_stamps
from shearbench.errors import ContractError
from shearbench.evaluation.gallery import Gallery, read_gallery, write_gallery
from shearbench.evaluation.metrics import read_metrics
from shearbench.files.hdf5 import add_dataset, create_hdf5, open_hdf5
from shearbench.files.origin import Origin, read_origin, side_file
from shearbench.files.tables import read_table, write_table
from shearbench.files.text import read_text, write_csv, write_text
from shearbench.files.writing import unreadable
from shearbench.tasks.shear.model_file import load_model, model_content, save_model
from shearbench.tasks.shear.network import ShearNetwork
from shearbench.training.checkpoint import Checkpoint
from shearbench.training.recipe import Recipe
from shearbench.training.variants import resolve_variant

FLIPS = 80
NAMES = {"population": "exp_gauss", "split": "test"}


def origin(rule, **names):
    return Origin(rule, "0123456789abcdef", names or NAMES)


INDEX = origin("index_stamps")
CHUNK = origin("simulate_stamps", **NAMES, chunk=0)
MODEL = origin("train", population="exp_gauss", variant="tiny", seed=1, content="model")
ESTIMATES = origin("predict", **NAMES, noise="0.01", estimator="tiny", seed=1)


def make_stamps(folder):
    rng = np.random.default_rng(3)
    pixels = rng.normal(size=(70, 8, 8)).astype(np.float32)
    about = {"population": "exp_gauss", "split": "test", "pixel_scale": 0.2, "catalog_digest": "abc"}
    blocks = iter([(pixels, pixels[0])])
    ids = np.arange(70)
    write_stamps(folder / "0.h5", blocks, ids, ids + 5, (8, 8), False, about, CHUNK)
    write_index(folder / "index.json", [folder / "0.h5"], INDEX)
    return folder / "index.json"


def stamps_content(path):
    stamps = read_stamps(path.with_name("index.json"), INDEX)
    attributes = [stamps.population, stamps.split, stamps.pixel_scale, stamps.catalog_digest]
    return [*stamps.noiseless(), stamps.galaxy_id, stamps.noise_id, *attributes]


def make_model(folder):
    variant = resolve_variant("tiny", {"base": "shearnet", "options": {"width": 2}}, Recipe())
    network = ShearNetwork(variant.make(), (SIDE, SIDE), SCALE, False)
    about = {"fingerprint": "f", "shape": (SIDE, SIDE), "pixel_scale": SCALE, "population": "exp_gauss"}
    save_model(
        folder / "model.pt", model_content(network, variant, name="tiny", seed=1, epoch=2, **about), MODEL
    )
    return folder / "model.pt"


def model_read(path):
    model = load_model(path, expected=MODEL)
    return [repr(model.about), *(value.numpy() for value in model.network.state_dict().values())]


def make_checkpoint(folder):
    path = folder / "seed1.pt"
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(300, generator=generator)
    Checkpoint(path, {"seed": 1}).save({"step": 3, "weights": weights, "rng": generator.get_state()})
    return path


def checkpoint_content(path):
    with warnings.catch_warnings(action="ignore"):
        state = Checkpoint(path, {"seed": 1}).load(torch.device("cpu"))
    if state is None:
        raise ContractError("not used")
    return [state["step"], state["weights"].numpy(), state["rng"].numpy()]


def make_catalog(folder):
    _, catalog = make_split(folder, "test", 40)
    write_table(folder / "test.parquet", catalog, catalog.attrs, origin("sample_catalog"))
    return folder / "test.parquet"


def make_bounds(folder):
    _, catalog = make_split(folder, "test", 12)
    table = cramer_rao(catalog, SCALE, (SIDE, SIDE))
    write_table(folder / "bounds.parquet", table, table.attrs, origin("cramer_rao"))
    return folder / "bounds.parquet"


def make_posterior(folder):
    rng = np.random.default_rng(1)
    table = pd.DataFrame({name: rng.uniform(0.1, 0.3, 30) for name in POSTERIOR}).assign(galaxy_id=range(30))
    write_table(folder / "posterior.parquet", table, {}, origin("sample_posterior"))
    return folder / "posterior.parquet"


def make_estimates(folder, g1=0.1, error=0.01, extra=(), attributes=()):
    n = 50
    table = pd.DataFrame(
        {
            "galaxy_id": range(n),
            "g1": np.linspace(0, g1, n),
            "g2": -0.1,
            "g1_err": error,
            "g2_err": np.nan,
            "flag": 0,
            **dict(extra),
        }
    )
    table.attrs = {
        **{"seconds": 1.5, "n": n, "kind": "network", "population": "exp_gauss", "split": "test"},
        **{"sigma": 1e-2, "catalog_digest": "abc"},
        **dict(attributes),
    }
    write_estimates(folder / "tiny.seed1.parquet", table, "tiny", 1, ESTIMATES)
    return folder / "tiny.seed1.parquet"


def make_gallery(folder):
    rng = np.random.default_rng(2)
    image = rng.normal(size=(2, 3, 6, 6)).astype(np.float32)
    gallery = Gallery(
        "exp_gauss",
        "exp",
        0.2,
        np.arange(3),
        np.array([1e-3, 1e-2]),
        image[:, :, 0, 0] ** 2,
        image,
        image,
        image,
    )
    write_gallery(folder / "gallery.h5", [gallery], origin("draw_gallery"))
    return folder / "gallery.h5"


def make_metrics(folder):
    table = pd.DataFrame({"estimator": ["a", "None", "1"], "rmse": [0.1, np.nan, 1 / 3], "n": [1, 2, 3]})
    write_csv(folder / "accuracy.csv", table, origin("evaluate_accuracy"))
    return folder / "accuracy.csv"


def make_residuals(folder):
    table = pd.DataFrame({"population": ["a", "b"] * 40, "g1": np.linspace(0, 1, 80)})
    write_table(folder / "residuals.parquet", table, origin=origin("evaluate_residuals"))
    return folder / "residuals.parquet"


def make_verdict(folder):
    write_text(folder / "verdict.txt", "The best is wide.\n", origin("evaluate_study"))
    return folder / "verdict.txt"


def gallery_content(path):
    return list(vars(read_gallery(path, "exp_gauss", origin("draw_gallery"))).values())


def read_residuals(path, expected):
    return read_table(path, ["g1"], "evaluate_residuals", expected=expected)


def of_table(read, expected):
    expected = origin(expected) if isinstance(expected, str) else expected

    def content(path):
        table = read(path, expected)
        return [repr(table.attrs), *(table[name].to_numpy() for name in table), list(table)]

    return content


# How to make a file, and how to read it.
KINDS = {
    "index": (make_stamps, stamps_content),
    "chunk": (lambda folder: make_stamps(folder).with_name("0.h5"), stamps_content),
    "model": (make_model, model_read),
    "checkpoint": (make_checkpoint, checkpoint_content),
    "catalog": (make_catalog, of_table(read_catalog, "sample_catalog")),
    "bounds": (make_bounds, of_table(read_bounds, "cramer_rao")),
    "posterior": (make_posterior, of_table(read_posterior, "sample_posterior")),
    "estimates": (make_estimates, of_table(read_estimates, ESTIMATES)),
    "gallery": (make_gallery, gallery_content),
    "metrics": (make_metrics, of_table(read_metrics, "evaluate_accuracy")),
    "residuals": (make_residuals, of_table(read_residuals, "evaluate_residuals")),
    "verdict": (make_verdict, lambda path: [read_text(path, origin("evaluate_study"))]),
}


def same(one, other):
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        if isinstance(a, np.ndarray) and a.dtype.kind in "biuf"
        else np.array_equal(a, b)
        for a, b in zip(one, other)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_bit_passes_in_silence(tmp_path, kind):
    make, content = KINDS[kind]
    path = make(tmp_path)
    before = content(path)
    rng = random.Random(kind)
    targets = [path, side_file(path)] if side_file(path).exists() else [path]
    accepted = 0
    for number in range(FLIPS * len(targets)):
        target = targets[number % len(targets)]
        whole = target.read_bytes()
        place, bit = rng.randrange(len(whole)), rng.randrange(8)
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        target.write_bytes(damaged)
        try:
            after = content(path)
        except ContractError:
            pass
        else:
            assert same(after, before), f"bit {bit} of byte {place} of {target.name}"
            accepted += 1
        target.write_bytes(whole)
    assert same(content(path), before)
    assert accepted < FLIPS  # what lies between the data of HDF5 and Parquet


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "checkpoint"])
def test_a_file_of_another_origin_is_refused_with_the_rule_that_makes_it(tmp_path, kind):
    path = KINDS[kind][0](tmp_path)
    own = read_origin(path)
    with pytest.raises(ContractError, match=rf"origin: found none.*rule '{own.rule}'"):
        own.check(path, None)
    for name, value in own.names.items():
        other = replace(own, names={**own.names, name: "other"})
        with pytest.raises(
            ContractError, match=rf"{name}: found {value!r}, expected 'other'.*rule '{own.rule}'"
        ):
            other.check(path, read_origin(path))
    with pytest.raises(ContractError, match=rf"digest.*another run.*rule '{own.rule}'"):
        replace(own, depends="f").check(path, own)


def test_readers_compare_the_origin(tmp_path):
    path = make_estimates(tmp_path)
    read_estimates(path)  # without a wish, as in a notebook
    for change, said in (
        ({"names": {**ESTIMATES.names, "noise": "1e-05"}}, "noise: found '0.01', expected '1e-05'"),
        ({"names": {**ESTIMATES.names, "seed": 2}}, "seed: found 1, expected 2"),
        ({"depends": "x"}, "digest of options and code"),
        ({"rule": "predict_shear"}, "rule: found 'predict'"),
    ):
        with pytest.raises(ContractError, match=said):
            read_estimates(path, replace(ESTIMATES, **change))
    model = make_model(tmp_path)
    with pytest.raises(ContractError, match=r"seed: found 1, expected 4.*rule 'train'"):
        load_model(model, expected=replace(MODEL, names={**MODEL.names, "seed": 4}))
    index = make_stamps(tmp_path)
    with pytest.raises(ContractError, match=r"index\.json: digest.*rule 'index_stamps'"):
        read_stamps(index, replace(INDEX, depends="x"))
    other = tmp_path / "other"
    other.mkdir()
    make_stamps(other)
    shutil.copy(other / "0.h5", tmp_path / "1.h5")
    with pytest.raises(ContractError, match=r"1\.h5: chunk: found 0, expected 1.*rule 'simulate_stamps'"):
        write_index(index, [tmp_path / "0.h5", tmp_path / "1.h5"], INDEX)


def test_cut_rows_are_refused(tmp_path):
    path = make_metrics(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    for expected in (origin("evaluate_accuracy"), None):
        with pytest.raises(ContractError, match=r"checksum.*rule 'evaluate_accuracy'"):
            read_metrics(path, expected)
    side_file(path).unlink()
    assert len(read_metrics(path)) == 2  # a table of the user's own
    with pytest.raises(ContractError, match=r"origin: found none"):
        read_metrics(path, origin("evaluate_accuracy"))


def test_names_are_text_and_numbers_are_exact(tmp_path):
    table = pd.DataFrame(
        {
            "population": ["NA", "1", "None"],
            "value": ["None", "nan", "0100"],
            "estimator": ["null", "", "True"],
            "rmse": [np.nan, 0.1 + 0.2, np.inf],
            "n": [1, 2, 3],
            "best": [True, False, True],
        }
    )
    write_csv(tmp_path / "t.csv", table)
    pd.testing.assert_frame_equal(read_metrics(tmp_path / "t.csv"), table, check_exact=True)
    write_csv(tmp_path / "t.csv", table[:0])
    assert list(read_metrics(tmp_path / "t.csv")) == list(table)


def test_a_kill_between_a_text_and_its_record_leaves_none(tmp_path):
    path = make_metrics(tmp_path)
    code = (
        "import os, signal, sys; from pathlib import Path; import shearbench.files.text as files\n"
        "from shearbench.files.origin import Origin\n"
        "files._record_of = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_text(sys.argv[1], 'new', Origin('evaluate_accuracy', 'd', {}))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)])
    assert path.read_text() == "new"
    with pytest.raises(ContractError, match="origin: found none"):
        read_text(path, origin("evaluate_accuracy"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"g1": 1.5}, r"1.*shapes with flag 0 and \|g\| >= 1"),
        ({"error": -0.1}, "g1_err: found 50 errors"),
        ({"error": 0.0}, "g1_err: found 50 errors"),
        ({"error": np.inf}, "g1_err: found 50 errors"),
    ],
)
def test_estimates_that_cannot_be_are_refused_with_the_rule_of_networks(tmp_path, change, said):
    with pytest.raises(ContractError, match=rf"{said}.*rule 'predict'"):
        read_estimates(make_estimates(tmp_path, **change))


def test_an_ensemble_estimator_may_answer_anything_finite(tmp_path):
    read_estimates(make_estimates(tmp_path, g1=3.0, extra={"R11": 2.0}.items()))


@pytest.mark.parametrize(
    ("column", "value"), [("g1", 1.0), ("hlr", 0.0), ("flux", -1.0), ("flux", np.inf), ("dx", np.nan)]
)
def test_galaxies_that_cannot_be_are_refused(tmp_path, column, value):
    from shearbench.data.catalogs import content_digest

    catalog = read_catalog(make_catalog(tmp_path))
    catalog.loc[3, column] = value
    path = tmp_path / "bad.parquet"
    write_table(path, catalog, {**catalog.attrs, "digest": content_digest(catalog)})
    for read in (read_catalog, lambda path: read_catalog_rows(path, 0, 10)):
        with pytest.raises(ContractError, match=rf"{column}.*galaxy_id 3"):
            read(path)


def test_bounds_that_cannot_be_are_refused(tmp_path):
    bounds = read_bounds(make_bounds(tmp_path))
    for column, value in (("crb_g1", 0.0), ("crb_g2", -1.0), ("snr", np.nan)):
        write_table(tmp_path / "bad.parquet", bounds.assign(**{column: value}), bounds.attrs)
        with pytest.raises(ContractError, match=rf"{column}.*'cramer_rao'"):
            read_bounds(tmp_path / "bad.parquet")


def open_all(path):
    with open_hdf5(path, "an HDF5 file", "simulate_stamps") as file:
        return [file[name][...] for name in file]


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "bomb", "virtual"])
def test_an_hdf5_file_holds_its_data_itself(tmp_path, kind):
    path, other = tmp_path / "a.h5", tmp_path / "b.h5"
    with create_hdf5(other) as file:
        add_dataset(file, "x", np.ones(3))
    with create_hdf5(path) as file:
        if kind == "external link":
            file["x"] = h5py.ExternalLink(other, "x")
        elif kind == "soft link":
            file["x"] = h5py.SoftLink("/y")
        elif kind == "external storage":
            file.create_dataset("x", (3,), float, external=[(str(other), 0, 24)])
        elif kind == "bomb":
            file.create_dataset("x", (10**12,), float, chunks=(10**6,), fletcher32=True)
        else:
            layout = h5py.VirtualLayout((3,), float)
            layout[:] = h5py.VirtualSource(other, "x", (3,))
            file.create_virtual_dataset("x", layout)
    with pytest.raises(ContractError, match=r"a\.h5: /x"):
        open_all(path)
    assert np.array_equal(open_all(other), [np.ones(3)])


@pytest.mark.parametrize("name", ["../other/0.h5", "/etc/hosts", "a/../../0.h5"])
def test_an_index_names_files_of_its_folder_only(tmp_path, name):
    index = make_stamps(tmp_path)
    write_text(index, json.dumps({"chunks": [{"file": name, "bytes": 1}]}), INDEX)
    with pytest.raises(ContractError, match=r"index\.json: chunks.*files below"):
        read_stamps(index, INDEX)


def test_a_folder_of_chunks_may_be_a_link_to_scratch(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    make_stamps(scratch)
    (tmp_path / "stamps").symlink_to(scratch)
    assert len(read_stamps(tmp_path / "stamps/index.json", INDEX)) == 70


def test_a_table_larger_than_its_file_can_hold_is_refused_before_it_is_read(tmp_path):
    pq.write_table(pa.table({"x": pa.nulls(30_000_000, pa.int8())}), tmp_path / "bomb.parquet")
    with pytest.raises(ContractError, match="240000000 bytes in memory"):
        read_table(tmp_path / "bomb.parquet", ["x"], "measure")


def test_a_model_larger_than_its_file_is_refused(tmp_path):
    from shearbench.files.text import write_sealed

    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(10**7))
    write_sealed(tmp_path / "model.pt", (tmp_path / "bomb.zip").read_bytes())
    with pytest.raises(ContractError, match=r"size: found 10000000 bytes once read"):
        load_model(tmp_path / "model.pt")


def test_an_error_of_the_system_is_not_the_files(tmp_path):
    path = make_stamps(tmp_path).with_name("0.h5")
    code = "import sys; from shearbench.data.stamps import StampSet; StampSet([sys.argv[1]])"
    with h5py.File(path, "r+"):
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    said = done.stderr.splitlines()[-1]
    assert said.startswith("shearbench.errors.ShearbenchError")
    assert "HDF5_USE_FILE_LOCKING" in said
    assert "rule" not in said
    for number in (errno.EAGAIN, errno.EDEADLK, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        assert "HDF5_USE_FILE_LOCKING" in str(unreadable(path, OSError(number, "x"), "x", "y"))
    for number in (errno.EIO, errno.EACCES, errno.ENOSPC):
        found = unreadable(path, OSError(f"file read failed: errno = {number}, error"), "x", "y")
        assert isinstance(found, OSError)
        assert found.errno == number
        assert str(path) in str(found)
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        open_all(tmp_path / "none.h5")
    with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
        read_table(Path(tmp_path / "none.parquet"), [], "measure")


def test_a_file_of_an_earlier_version_is_named_as_such(tmp_path):
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["images"] = np.ones(3)
    with pytest.raises(ContractError, match="earlier version"):
        open_all(tmp_path / "0.h5")
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ContractError, match="earlier version"):
        read_table(tmp_path / "t.parquet", [], "measure")
    torch.save({"a": 1}, tmp_path / "model.pt")
    with pytest.raises(ContractError, match=r"record.*rule 'train'"):
        load_model(tmp_path / "model.pt")
