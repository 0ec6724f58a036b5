import copy
import io
import math
import os
import signal
import subprocess
import sys
import time
from typing import get_args

import galsim
import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from simulated import SCALE, SIDE, make_split, make_splits, train

from shearbench.data.shapes import Flag
from shearbench.errors import ConfigError, ContractError, ShearbenchError
from shearbench.forward_model.fourier import G, X
from shearbench.jobs.torch_settings import seeded, torch_settings
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps, psf_object
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear import objective
from shearbench.tasks.shear.data import Examples, Rendered, Splits, Stored, draw_batch, load_examples
from shearbench.tasks.shear.model_file import load_model, save_model
from shearbench.tasks.shear.network import Answer, ShearNetwork
from shearbench.tasks.shear.prediction import predict
from shearbench.tasks.shear.train import ShearTask
from shearbench.training import loop
from shearbench.training.checkpoint import save
from shearbench.training.optimisers import Muon, Soap, make_optimisers, orthogonalise, rate_at, take_step
from shearbench.training.progress import ProgressLine
from shearbench.training.recipe import Recipe
from shearbench.training.termination import Terminated, termination
from shearbench.training.variants import resolve_variant
from shearbench.training.workers import Workers

CPU = torch.device("cpu")
EXP_GAUSS = Population(**PRESETS["exp_gauss"])
SHAPES = ("g1", "g2")
pytestmark = pytest.mark.trains
TINY = {
    "base": "dilated",
    "options": {"width": 8, "hidden": [16]},
    "training": {"epochs": 5, "batch_size": 16, "validation_stamps": 32, "noise": [1e-4, 1e-2]},
}


WHITENED = {"components": 32, "width": 24, "blocks": 1}


def variant(**training):
    entry = {**TINY, "training": {**TINY["training"], **training}}
    return resolve_variant("tiny", entry, Recipe())


def another(base, options, **training):
    """Return a variant of another architecture, trained as the tiny one is."""
    entry = {"base": base, "options": options, "training": {**TINY["training"], **training}}
    return resolve_variant("tiny", entry, Recipe())


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return make_splits(tmp_path_factory.mktemp("stamps"), 160, 48)


@pytest.fixture(scope="module")
def trained(splits):
    return train(*splits, variant(), population=EXP_GAUSS, name="tiny", seed=1, fingerprint="f")


@pytest.fixture
def model(trained, tmp_path):
    save_model(tmp_path / "model.pt", trained[0])
    return load_model(tmp_path / "model.pt")


def same_weights(a, b):
    assert a["state"].keys() == b["state"].keys()
    return all(torch.equal(a["state"][name], b["state"][name]) for name in a["state"])


def test_history_says_how_it_went(trained):
    content, history = trained
    layers = [name for name in history if name.startswith("gradient of ")]
    levels = variant().training.validation_levels
    assert list(history) == [
        "epoch",
        "views",
        "seconds",
        "learning_rate",
        "train_loss",
        "gradient_norm",
        *layers,
        "validation_loss",
        *(f"validation_rmse at {level:g}" for level in levels),
        "validation_rmse",
    ]
    assert (history["validation_rmse"] == history[f"validation_rmse at {levels[0]:g}"]).all()
    total = (history[layers].to_numpy() ** 2).sum(1) ** 0.5
    assert history["gradient_norm"].to_numpy() == pytest.approx(total)
    assert (history[layers] > 0).all(axis=None)
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert history["views"].tolist() == [160, 320, 480, 640, 800]
    assert (history["seconds"].diff().dropna() > 0).all()
    assert content["epoch"] == history["epoch"].iloc[history["validation_loss"].argmin()]


def test_same_seed_same_weights_another_seed_others(splits, trained):
    again, _ = train(*splits, variant(), population=EXP_GAUSS, name="tiny", seed=1, fingerprint="f")
    other, _ = train(*splits, variant(), population=EXP_GAUSS, name="tiny", seed=2, fingerprint="f")
    assert same_weights(trained[0], again)
    assert not same_weights(trained[0], other)


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"ema": 0.9, "optimiser": "adamw"},
        {"loss": "huber", "optimiser": "muon"},
        {"epoch_stamps": 100, "augmentation": [], "loss": "mae", "gradient_clip": None},
        {"data": "rendered", "optimiser": "soap", "loss": "msb", "realisations": 2},
        {"optimiser": "sgd", "schedule": "one_cycle", "curriculum": "easy_to_hard"},
        {"augmentation": ["rotation", "shift", "brightness", "cutmix"], "realisations": 2},
        {"data": "rendered", "galaxies": 60, "optimiser": "adamw"},
        {"optimiser": "adam", "schedule": "step", "loss": "power", "precision": "float64", "ema": 0.9},
    ],
)
@pytest.mark.parametrize("stop", [3, 13, 27])
def test_stopped_at_any_step_it_goes_on_to_the_same_weights(splits, tmp_path, monkeypatch, training, stop):
    chosen = variant(**{"epochs": 3, **training})
    whole, history = train(*splits, chosen, population=EXP_GAUSS, name="tiny", seed=1)
    steps = {"left": stop}
    take_step = loop.Training._step

    def dying_step(self, *arguments):
        if steps["left"] == 0:
            raise InterruptedError
        steps["left"] -= 1
        take_step(self, *arguments)

    arguments = {"population": EXP_GAUSS, "name": "tiny", "seed": 1, "checkpoint": tmp_path / "c.pt"}
    monkeypatch.setattr(loop.Training, "_step", dying_step)
    died = False
    try:
        train(*splits, chosen, **arguments)
    except InterruptedError:
        died = True
    each = 16 // training.get("realisations", 1)
    stamps = training.get("epoch_stamps", training.get("galaxies", 160))
    assert died == (stop < 3 * (stamps // each))
    monkeypatch.setattr(loop.Training, "_step", take_step)
    resumed, resumed_history = train(*splits, chosen, **arguments)
    assert same_weights(whole, resumed)
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), resumed_history.drop(columns="seconds"))


PROGRAM = """
import sys
import pandas as pd, torch
from shearbench.training.variants import Variant
from shearbench.data.stamps import StampSet
from shearbench.files.tables import read_table
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear.model_file import save_model
from shearbench.tasks.shear.data import Splits
from shearbench.tasks.shear.train import train
from shearbench.training.task import Job

folder, slowly = sys.argv[1], len(sys.argv) > 2
if slowly:
    from shearbench.training import loop
    import time
    take_step = loop.Training._step
    def slow_step(self, *arguments):
        take_step(self, *arguments)
        time.sleep(0.08)
    loop.Training._step = slow_step
splits = [StampSet([f"{folder}/{split}.h5"]) for split in ("train", "validation")]
catalogs = [read_table(f"{folder}/{s.split}.parquet", ["g1", "g2"], "sample_catalog") for s in splits]
variant = Variant.model_validate_json(open(f"{folder}/variant.json").read())
population = Population(**PRESETS["exp_gauss"])
job = Job(seed=1, checkpoint=f"{folder}/c.pt", fingerprint="f")
model, history = train(Splits(*splits, *catalogs), variant, population, "tiny", job)
save_model(f"{folder}/model.pt", model)
"""


@pytest.fixture
def job(splits, tmp_path):
    """Start a training in a process of its own."""
    from shearbench.files.tables import write_table

    for stamps, catalog in zip(splits[:2], splits[2:]):
        os.symlink(stamps.paths[0], tmp_path / f"{stamps.split}.h5")
        write_table(tmp_path / f"{stamps.split}.parquet", catalog, catalog.attrs)
    (tmp_path / "variant.json").write_text(variant().model_dump_json())
    (tmp_path / "program.py").write_text(PROGRAM)

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, tmp_path / "program.py", tmp_path, *arguments], stderr=subprocess.PIPE, text=True
        )

    return start


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_and_terminated_it_ends_with_the_same_model_file(job, tmp_path, trained):
    checkpoint = tmp_path / "c.pt"

    def state():
        return torch.load(checkpoint, weights_only=True)["state"]

    process = job("slowly")
    wait_for(checkpoint.exists, process)
    first = checkpoint.stat().st_mtime_ns
    wait_for(lambda: checkpoint.stat().st_mtime_ns != first, process)
    time.sleep(0.25)  # somewhere within an epoch
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    kept = state()["step"]
    assert kept >= 20

    process = job("slowly")
    line = process.stderr.readline()  # an epoch is over
    assert "epoch 1/5" not in line
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 143, said
    assert state()["step"] > kept
    assert state()["step"] % 10 != 0  # saved at once, within an epoch
    assert not (tmp_path / "model.pt").exists()

    process = job()
    said = process.communicate()[1]
    assert process.returncode == 0, said
    save_model(tmp_path / "whole.pt", trained[0])
    assert (tmp_path / "model.pt").read_bytes() == (tmp_path / "whole.pt").read_bytes()


def test_ctrl_c_saves_the_state_and_says_so_in_a_line(job, tmp_path):
    process = job("slowly")
    assert "epoch 1/5" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].splitlines()
    assert process.returncode == 130, said
    assert said[-1] == "tiny seed 1: stopped; the next attempt continues from here"
    assert len(said) <= 6  # lines of epochs
    assert torch.load(tmp_path / "c.pt", weights_only=True)["state"]["step"] >= 10


@pytest.mark.parametrize(
    "harm", ["truncated", "foreign", "no checkpoint", "other fingerprint", "other recipe"]
)
def test_a_checkpoint_that_is_not_its_own_is_left_alone_with_a_warning(splits, tmp_path, trained, harm):
    path = tmp_path / "c.pt"
    arguments = {"population": EXP_GAUSS, "name": "tiny", "seed": 1, "checkpoint": path, "fingerprint": "f"}
    chosen = variant()
    if harm == "other recipe":
        train(*splits, variant(epochs=1), **arguments)
    else:
        other = arguments | ({"fingerprint": "g"} if harm == "other fingerprint" else {})
        train(*splits, chosen, **other)
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif harm == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    elif harm == "no checkpoint":
        path.write_text("hello")
    with pytest.warns(UserWarning, match=r"c\.pt is not used.*anew"):
        content, _ = train(*splits, chosen, **arguments)
    assert same_weights(content, trained[0])


def test_a_finished_training_is_not_trained_again(splits, tmp_path, monkeypatch):
    arguments = {"population": EXP_GAUSS, "name": "tiny", "seed": 1, "checkpoint": tmp_path / "c.pt"}
    first, _ = train(*splits, variant(epochs=1), **arguments)
    monkeypatch.setattr(loop.Training, "_step", None)
    second, _ = train(*splits, variant(epochs=1), **arguments)
    assert same_weights(first, second)


def test_early_stopping_keeps_the_best_weights(splits, monkeypatch):
    losses = iter([0.5, 0.4, 0.6, 0.7, 0.1])
    seen = []

    def validate(self):
        seen.append({name: value.clone() for name, value in self.network.state_dict().items()})
        return loop_validate(self)

    loop_validate = loop.Training._validate
    monkeypatch.setattr(loop.Training, "_validate", validate)
    monkeypatch.setattr(
        objective,
        "evaluate",
        lambda network, examples, sigma, level, limit=None: _constant(network, examples, losses, level),
    )
    content, history = train(
        *splits,
        variant(epochs=5, patience=2, validation_noise=[1e-3]),
        population=EXP_GAUSS,
        name="tiny",
        seed=1,
    )
    assert len(history) == 4
    assert content["epoch"] == 2
    assert all(torch.equal(content["state"][k], v) for k, v in seen[1].items() if not k.startswith("error"))


def _constant(network, examples, losses, level):
    value = next(losses, 1.0) if level == 0 else 1.0
    return torch.full((8, 2), value), torch.ones(8, 2), torch.arange(1.0, 9.0)


@pytest.mark.parametrize(
    ("levels", "epoch"),
    [
        ({0: [np.nan, 0.5, 0.4, 0.6, 0.7]}, 3),  # what comes first is not the best
        ({0: [0.5, np.inf, 0.4, 0.6, 0.7]}, 3),
        ({0: [0.5, 0.6, 0.4, 0.3, 0.2], 1: [1.0, 1.0, 1.0, 1.0, np.nan]}, 4),  # at one noise level only
    ],
)
def test_an_epoch_without_a_finite_loss_is_never_the_best(splits, monkeypatch, levels, epoch):
    losses = {level: iter(values) for level, values in levels.items()}
    monkeypatch.setattr(
        objective,
        "evaluate",
        lambda network, examples, sigma, level, limit=None: _constant(
            network, examples, losses.get(level, iter(())), 0
        ),
    )
    chosen = variant(validation_noise=[1e-3, 1e-2])
    content, history = train(*splits, chosen, population=EXP_GAUSS, name="tiny", seed=1)
    assert len(history) == 5
    assert (content["epoch"], content["diverged"]) == (epoch, False)


def test_a_training_without_any_finite_validation_diverged(splits, monkeypatch):
    nothing = torch.full((8, 2), torch.nan), torch.ones(8, 2), torch.ones(8)
    monkeypatch.setattr(objective, "evaluate", lambda *rest: nothing)
    with pytest.raises(ShearbenchError, match="infinite or NaN at epoch 5"):
        train(*splits, variant(), population=EXP_GAUSS, name="tiny", seed=1)


DIVERGENT = {"learning_rate": 1e30, "epochs": 3}  # no float32 network stands steps of that length


@pytest.mark.parametrize(
    ("base", "options", "training"),
    [
        ("dilated", TINY["options"], {}),
        ("dilated", TINY["options"], {"optimiser": "adamw", "ema": 0.9, "gradient_clip": None}),
        ("pooled", {"width": 4, "hidden": [8], "normalisation": "batch"}, {"optimiser": "soap"}),
        ("refined", {"first": {"options": WHITENED}}, {"patience": 2}),
    ],
    ids=["muon", "adamw", "batch norm", "refined"],
)
def test_a_training_that_diverges_stops_with_the_epoch_and_advice_or_says_so(
    splits, tmp_path, monkeypatch, base, options, training
):
    chosen = another(base, options, **{**DIVERGENT, **training})
    arguments = {"population": EXP_GAUSS, "name": "tiny", "seed": 1, "checkpoint": tmp_path / "c.pt"}
    with pytest.raises(ShearbenchError) as error:
        train(*splits, chosen, **arguments)
    said = str(error.value)
    assert "\n" not in said
    clip = "set training.gradient_clip" if "gradient_clip" in training else "training.gradient_clip (now 1)"
    for part in ("variants.tiny", "seed 1", "at epoch 1", "training.learning_rate (now 1e+30)", clip):
        assert part in said
    # Where a study asks, that is the result; the state knows it, and nothing is trained again.
    monkeypatch.setattr(loop.Training, "_step", None)
    content, history = train(*splits, chosen, **arguments, may_diverge=True)
    assert history["epoch"].tolist() == [1]
    assert (content["epoch"], content["diverged"]) == (1, True)
    save_model(tmp_path / "model.pt", content)
    shapes, seconds = predict(load_model(tmp_path / "model.pt", "tiny"), splits[1], 1e-3, seed=3)
    assert (shapes.flag == Flag.DIVERGED).all()
    assert (len(shapes.g1), seconds) == (48, 0)
    assert np.isnan([shapes.g1, shapes.g2, shapes.g1_err, shapes.g2_err]).all()


def test_an_epoch_of_one_step_is_enough_for_a_refined_network(splits):
    chosen = another("refined", {"first": {"options": WHITENED}}, epochs=1, epoch_stamps=16)
    content, _ = train(*splits, chosen, population=EXP_GAUSS, name="tiny", seed=1)
    assert content["epoch"] == 1


def test_averaged_weights_are_the_mean_of_the_steps(splits):
    plain, _ = train(*splits, variant(epochs=1), population=EXP_GAUSS, name="tiny", seed=1)
    averaged, _ = train(*splits, variant(epochs=1, ema=0.999), population=EXP_GAUSS, name="tiny", seed=1)
    assert not same_weights(plain, averaged)


def test_nothing_global_is_left_changed(splits):
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), signal.getsignal(signal.SIGTERM))  # noqa: NPY002
    threads, environment = torch.get_num_threads(), dict(os.environ)
    train(
        *splits,
        variant(epochs=1, epoch_stamps=16),
        population=EXP_GAUSS,
        name="tiny",
        seed=1,
        threads=threads + 1,
    )
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert signal.getsignal(signal.SIGTERM) is before[2]
    assert (torch.get_num_threads(), dict(os.environ)) == (threads, environment)
    assert not torch.are_deterministic_algorithms_enabled()


def test_settings_are_put_back_after_an_error():
    threads = torch.get_num_threads()

    def fail():
        with torch_settings(threads + 1, 0, CPU):
            assert torch.get_num_threads() == threads + 1
            assert torch.are_deterministic_algorithms_enabled()
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_noted_and_then_handled_as_before(signum, status):
    def mine(signum, frame):
        raise AssertionError

    before = signal.signal(signum, mine)
    try:
        with termination() as event:
            os.kill(os.getpid(), signum)
            assert event.wait(5)
        assert signal.getsignal(signum) is mine
    finally:
        signal.signal(signum, before)
    assert Terminated(event.signal).code == status


def test_a_second_ctrl_c_is_obeyed_at_once():
    with termination() as event:
        os.kill(os.getpid(), signal.SIGINT)
        assert event.wait(5)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("harm", "field"),
    [("digest", "catalog_digest"), ("galaxies", "galaxy_id"), ("pixel", "images")],
)
def test_stamps_and_catalog_must_belong_together(splits, tmp_path, harm, field):
    stamps, catalog = make_split(tmp_path, "train", 20)
    if harm == "digest":
        catalog.attrs["digest"] = "another"
    elif harm == "galaxies":
        attributes = dict(catalog.attrs)
        catalog = catalog.iloc[::-1].reset_index(drop=True)
        catalog.attrs.update(attributes)
    else:
        import h5py

        with h5py.File(stamps.paths[0], "r+") as file:
            file["images"][3, 4, 5] = np.nan
    with pytest.raises(ContractError) as error:
        load_examples(stamps, catalog, SHAPES, CPU)
    for part in ("train.h5", field, "simulate_stamps"):
        assert part in str(error.value)


def test_what_cannot_be_trained_is_said_before_it_starts(splits):
    with pytest.raises(ConfigError, match=r"variants\.tiny.*batch_size: 500"):
        train(*splits, variant(batch_size=500), population=EXP_GAUSS, name="tiny", seed=1)
    wrong = resolve_variant("a", {"base": "pooled", "options": {"fold": 5}}, Recipe())
    with pytest.raises(ConfigError, match=r"options\.fold"):
        train(*splits, wrong, population=EXP_GAUSS, name="tiny", seed=1)


def test_an_epoch_shows_each_stamp_before_any_comes_again():
    examples = Examples(torch.arange(10.0).reshape(10, 1, 1), torch.zeros(1, 1), torch.zeros(10, 2))

    def shown(seed, epoch):
        source = Stored(examples, 25, [seed])
        source.start(epoch)
        return source.take(slice(0, 25))[0].flatten().tolist()

    order = shown(seed=1, epoch=0)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert len(order) == 25
    assert order == shown(seed=1, epoch=0)
    assert order != shown(seed=1, epoch=1)
    assert order != shown(seed=2, epoch=0)


@pytest.mark.parametrize("data", ["stored", "rendered"])
def test_a_training_repeats_its_galaxies(splits, data):
    chosen = variant(data=data, galaxies=40, augmentation=[])
    task = ShearTask.of(Splits(*splits), chosen, EXP_GAUSS, "tiny")
    started = task.start([1, 2], CPU, Workers())
    assert started.epoch_items == 40
    assert task.recipe.shown(160) == 40
    assert Recipe(galaxies=40, epoch_stamps=100).shown(160) == 100

    def shown(epoch, n=40):
        started.start_epoch(epoch)
        images, _, truth, *_ = started.source.take(slice(0, n))
        return images.unflatten(0, (2, n)), truth.unflatten(0, (2, n))

    (images, first), (_, second) = shown(0), shown(1)
    for k in range(2):
        assert len(first[k].unique(dim=0)) == 40
        assert torch.equal(first[k].unique(dim=0), second[k].unique(dim=0))
        assert not torch.equal(first[k], second[k])  # in another order
    if data == "stored":
        assert torch.equal(first[0].unique(dim=0), started_first(splits, 40).unique(dim=0))
    else:
        assert not torch.equal(first[0].unique(dim=0), first[1].unique(dim=0))
    assert images.isfinite().all()
    # The scaling, too, is measured from as many galaxies.
    whole = ShearTask.of(Splits(*splits), variant(), EXP_GAUSS, "tiny").start([1], CPU, Workers())
    assert not torch.equal(whole.networks[0].mean, started.networks[0].mean)


def started_first(splits, count):
    """Return the true shapes of the first galaxies of the training split."""
    return load_examples(splits[0], splits[2], SHAPES, CPU).parameters[:count]


def test_each_step_has_fresh_noise_of_the_level_it_tells():
    examples = Examples(torch.zeros(64, 16, 16), torch.zeros(16, 16), torch.ones(64, 2))
    generator, usual = torch.Generator(), Recipe(noise=(1e-4, 1e-1))
    source = Stored(examples, 64, [1])
    source.start(0)

    def batch(seed, step, recipe=usual):
        part = slice(0, 64 // recipe.realisations)
        return draw_batch(source, part, recipe, SHAPES, [seed], step, generator)[:4]

    images, _, sigma, shapes = batch(1, 5)
    assert all(torch.equal(a, b) for a, b in zip(batch(1, 5), (images, torch.zeros(16, 16), sigma, shapes)))
    assert not torch.equal(batch(1, 6)[0], images)
    assert not torch.equal(batch(2, 5)[0], images)
    unit = images / sigma[:, None, None]
    assert unit.std() == pytest.approx(1, abs=0.03)
    assert 1e-4 <= sigma.min() < sigma.max() <= 1e-1
    # log-uniform: its mean is the middle of the range, to three errors of the mean of 64
    assert sigma.log10().mean() == pytest.approx(-2.5, abs=3 * 3 / np.sqrt(12 * 64))
    # an eighth of the batch for each element of the group, with the signs of each
    assert shapes.sum(0).tolist() == [0, 0]
    assert batch(1, 1, Recipe(noise=1e-3, augmentation=()))[3].sum(0).tolist() == [64, 64]
    assert (batch(1, 1, Recipe(noise=1e-3))[2] == torch.tensor(1e-3)).all()
    # Realisations of a galaxy stand side by side: of one level and one turn, and of different noise.
    images, _, sigma, shapes = batch(1, 5, usual.model_copy(update={"realisations": 4}))
    assert len(images) == 64
    for values in (sigma[:, None], shapes):
        assert (values.unflatten(0, (16, 4)).std(1) == 0).all()
    assert len(torch.unique(sigma)) == 16
    assert len(torch.unique(images[:, 0, 0])) == 64


def test_streams_of_random_numbers_differ():
    generator = torch.Generator()
    draws = {
        torch.rand((), generator=seeded(generator, *numbers)).item()
        for numbers in [(0, 1, 2), (1, 1, 2), (0, 2, 1), (0, 1, 3), (0, 1), (0, 12)]
    }
    assert len(draws) == 6


def untrained(splits, options=None, base="dilated", **recipe):
    """Return the objective of a training that has not begun."""
    architecture = another(base, TINY["options"] if options is None else options).make()
    examples = load_examples(splits[0], splits[2], architecture.targets, CPU)
    network = ShearNetwork(architecture, (SIDE, SIDE), SCALE, False)
    network.fit_scaling(examples.images, examples.psf, examples.parameters)
    source = Stored(examples, 160, [0])
    return objective.ShearObjective([network], source, 160, examples, Recipe(**recipe), [0], Workers())


def test_every_loss_of_the_recipe_is_in_the_table():
    assert set(objective.LOSSES) == set(get_args(Recipe.model_fields["loss"].annotation))


def test_the_mean_squared_bias_is_that_of_means_over_noise(splits):
    training = untrained(splits, loss="msb", realisations=2, batch_size=4)
    scaled = torch.tensor([[1.0, 2.0], [3.0, 4.0], [-1.0, 0.0], [1.0, 2.0]])
    # Means (2, 3) and (0, 1): (4 + 9 + 0 + 1) / 4.
    power = torch.ones(1, 1, 1)
    assert float(training._size(scaled[None], 4, power)) == 3.5
    # An odd one out, as a forward model may refine, has no mean.
    assert float(training._size(torch.cat([scaled, scaled[:1]])[None], 5, power)) == 3.5
    noise = torch.randn(5000, 2)
    answers = torch.stack([0.5 + noise, 0.5 - noise], 1).flatten(0, 1)
    assert float(training._size(answers[None], 10000, power)) == pytest.approx(0.25, rel=1e-5)


def loss_of(training, sigma, residual=None):
    """Return the loss and its gradient for residuals of validation stamps at given noise levels."""
    network, n = training.networks[0], len(sigma)
    if residual is None:
        residual = 0.3 * torch.randn(n, len(network.targets), generator=seeded(torch.Generator(), 4))
    standard = residual.clone().requires_grad_()
    at = network.targets.index("g1")
    answer = Answer(network.shape_spread * standard[:, at : at + 2], None, None, standard, None)
    zero = torch.zeros(n, len(network.targets))
    training.mean_square = torch.ones_like(training.mean_square)
    loss = training._loss(network, answer, zero, zero, sigma, 1)
    loss.backward()
    return loss.detach(), standard.grad


@pytest.mark.parametrize(("exponents", "like"), [((1, 1), "mae"), ((2, 2), "mse")])
def test_the_exponent_of_the_loss_follows_from_the_noise_level(splits, exponents, like):
    sigma = torch.logspace(-4, -2, 16)
    recipe = {"batch_size": 16, "noise": (1e-4, 1e-2), "loss_scaling": "none"}
    same = loss_of(untrained(splits, loss=like, **recipe), sigma)
    found = loss_of(untrained(splits, loss="power", exponents=exponents, **recipe), sigma)
    torch.testing.assert_close(found, same)
    # The exponent is 1 at the lowest level, 1.5 in the middle of the range, and 2 at the highest.
    power = untrained(splits, loss="power", **{**recipe, "batch_size": 3})
    values = torch.tensor([[0.0, 0.04], [0.09, 0.09], [-0.2, 0.2]])
    loss, gradient = loss_of(power, torch.tensor([1e-4, 1e-3, 1e-2]), values)
    assert float(loss) == pytest.approx((0.04 + 2 * 0.027 + 2 * 0.04) / 6, rel=1e-4)
    expected = torch.tensor([[0.0, 1.0], [0.45, 0.45], [-0.4, 0.4]]) / 6
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_a_weight_multiplies_the_loss_of_its_target(splits):
    sigma, recipe = torch.full((16,), 1e-3), {"base": "dilated", "batch_size": 16, "loss": "mse"}
    auxiliary = {**TINY["options"], "auxiliary": True}
    plain = loss_of(untrained(splits, auxiliary, **recipe), sigma)[1]
    weights = {"flux": 0.5, "g2": 3.0, "x": 0.0}
    weighed = loss_of(untrained(splits, auxiliary, **recipe, target_weights=weights), sigma)[1]
    torch.testing.assert_close(weighed, plain * torch.tensor([0.5, 0.0, 1.0, 1.0, 1.0, 3.0]))


@pytest.mark.parametrize("order", ["easy_to_hard", "hard_to_easy", "mixed"])
def test_a_curriculum_widens_the_range_of_noise(splits, order):
    training = untrained(splits, curriculum=order, noise=(1e-4, 1e-2), batch_size=32, epochs=8)
    training.start_epoch(0)

    def levels(step):
        sigma = training.draw(slice(0, 32), step, torch.Generator()).sigma
        return math.log10(sigma.min()), math.log10(sigma.max())

    assert training.steps == 40
    start, middle, end = (levels(step) for step in (0, 10, 39))
    assert end[0] < -3.7
    assert end[1] > -2.3
    if order == "easy_to_hard":
        assert start == pytest.approx((-4, -4), abs=1e-6)
        assert -3.3 < middle[1] <= -3 + 1e-6
    elif order == "hard_to_easy":
        assert start == pytest.approx((-2, -2), abs=1e-6)
        assert -3 - 1e-6 <= middle[0] < -2.7
    else:
        assert start[0] < -3.7
        assert start[1] > -2.3


def test_loss_weighs_all_noise_levels_alike(splits):
    training = untrained(splits, noise=(1e-5, 1e-1), batch_size=64)
    generator, zero = seeded(torch.Generator(), 1), torch.zeros(2)

    def loss(residual, sigma):
        unit = residual / training.networks[0].shape_spread
        answer = Answer(residual, torch.ones(2), sigma, unit, None)
        parameters = zero.expand(len(sigma), 2)
        return training._loss(training.networks[0], answer, zero, parameters, sigma, 0) / len(sigma)

    for _ in range(1500):  # the running mean forgets its start by a fiftieth a step
        sigma = 10 ** (-5 + 4 * torch.rand(64, generator=generator))
        residual = sigma[:, None] * torch.randn(64, 2, generator=generator)
        loss(residual, sigma)
    low, high = torch.full((500,), 2e-5), torch.full((500,), 5e-2)
    unit = torch.randn(500, 2, generator=generator)
    parts = [float(loss(s[:, None] * unit, s)) for s in (low, high)]
    # A factor 2500 in the error, and yet the same loss but for the spread within a bin.
    assert 0.5 < parts[0] / parts[1] < 2


def test_recipe_levels_and_ranges():
    assert Recipe(noise=(1e-5, 1e-1)).validation_levels == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert Recipe(noise=1e-3).validation_levels == [1e-3]
    assert Recipe(noise=(1e-3, 2e-3)).validation_levels == pytest.approx([1e-3, 2e-3])
    assert Recipe(validation_noise=[1e-1, 1e-3]).validation_levels == [1e-3, 1e-1]
    for wrong in ({"noise": 0}, {"noise": [1e-1, 1e-3]}, {"warmup": 1.0}, {"batch_size": 0}, {"ema": 1.0}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            Recipe(**wrong)


def test_every_field_of_the_recipe_is_explained():
    assert all(field.description for field in Recipe.model_fields.values())


def test_learning_rate_rises_and_falls_to_zero():
    recipe = Recipe(learning_rate=1.0, warmup=0.1)
    rates = [rate_at(step, 1000, recipe) for step in range(1000)]
    assert rates[0] < 0.02
    assert max(rates) == pytest.approx(1, abs=1e-3)
    assert rates.index(max(rates)) in range(98, 102)
    assert rates[-1] < 1e-5
    assert rates[101:] == sorted(rates[101:], reverse=True)
    assert rate_at(999, 1000, Recipe(learning_rate=1.0, final_rate=0.1)) == pytest.approx(0.1, abs=1e-4)


def test_schedules_are_those_of_torch():
    steps, rates = 200, {}
    for name, warmup in (("one_cycle", 0.05), ("step", 0.0), ("constant", 0.0)):
        recipe = Recipe(learning_rate=0.3, schedule=name, warmup=warmup)
        rates[name] = [rate_at(step, steps, recipe) for step in range(steps)]
    for name, make in (
        ("one_cycle", lambda one: torch.optim.lr_scheduler.OneCycleLR(one, 0.3, total_steps=steps)),
        ("step", lambda one: torch.optim.lr_scheduler.MultiStepLR(one, [100, 150])),
        ("constant", lambda one: torch.optim.lr_scheduler.ConstantLR(one, 1.0)),
    ):
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3, momentum=0.9)
        schedule = make(optimiser)
        for rate in rates[name]:
            assert rate == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
            optimiser.step()
            if schedule.last_epoch < steps - 1:
                schedule.step()
    for name in ("step", "constant"):
        rising = [rate_at(step, steps, Recipe(schedule=name, warmup=0.1)) for step in range(25)]
        assert rising[:21] == sorted(set(rising[:21]))
        assert rising[20:] == [Recipe().learning_rate] * 5


@pytest.mark.parametrize("shape", [(8, 8), (8, 50), (50, 8)])
def test_orthogonalised_matrices_keep_directions_and_lose_scales(shape):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64) * 1e3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    rotated = u.T @ orthogonalise(matrix) @ v.T
    assert (rotated - torch.diag(rotated.diagonal())).abs().max() < 1e-6
    assert 0.5 < rotated.diagonal().min() <= rotated.diagonal().max() < 1.3


def test_muon_steps_are_as_long_as_adamws():
    weight = torch.nn.Parameter(torch.zeros(16, 4, 3, 3))
    optimiser = Muon([weight], lr=0.1)
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    optimiser.step()
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.3)


def test_muon_steps_are_torchs_but_for_its_rounding_and_its_limits():
    """If torch's Muon takes kernels and stacked weights, and computes in float32, ours can go."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(24, 40, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimisers = [
        Muon([ours], lr=0.02, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(10):
        ours.grad = theirs.grad = torch.randn(start.shape, generator=generator)
        for optimiser in optimisers:
            optimiser.step()
    difference = (ours - theirs).norm() / (ours - start).norm()
    # The precision of bfloat16 is 0.004.
    assert 1e-4 < difference < 0.03
    with pytest.raises(ValueError, match="2D"):
        torch.optim.Muon([torch.nn.Parameter(torch.zeros(16, 4, 3, 3))])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "soap", "muon"])
def test_a_step_is_that_of_the_optimiser(name):
    start = variant().make().build(1, (SIDE, SIDE), 2)
    ends = []
    for step in (take_step, lambda optimiser: optimiser.step()):
        module = copy.deepcopy(start)
        optimisers = make_optimisers(module, Recipe(optimiser=name))
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            for weight in module.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator)
            for optimiser in optimisers:
                step(optimiser)
        ends.append(list(module.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(*ends))
    assert not any(torch.equal(one, other) for one, other in zip(ends[0], start.parameters()))


def test_every_weight_has_one_optimiser():
    module = variant().make().build(1, (SIDE, SIDE), 2)
    for name in ("sgd", "adam", "adamw", "soap", "muon"):
        optimisers = make_optimisers(module, Recipe(optimiser=name))
        held = [id(p) for o in optimisers for group in o.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in module.parameters())
    last = list(module.parameters())[-2]
    assert all(p is not last for p in optimisers[0].param_groups[0]["params"])


def test_networks_side_by_side_do_not_depend_on_each_other(splits):
    chosen = another("dilated", {**TINY["options"], "separate": True, "auxiliary": True})
    architecture = chosen.make()
    network = ShearNetwork(architecture, (SIDE, SIDE), SCALE, False)
    assert len(network.body.network.networks) == 6
    examples = load_examples(splits[0], splits[2], architecture.targets, CPU)
    network.fit_scaling(examples.images, examples.psf, examples.parameters)
    answer = network(examples.images[:4], examples.psf, torch.tensor(1e-3)).standard
    answer[:, 2].sum().backward()
    moved = [
        any(weight.grad.abs().max() > 0 for weight in one.parameters())
        for one in network.body.network.networks
    ]
    assert moved == [False, False, True, False, False, False]
    # Muon leaves out the last layer of each.
    muon = make_optimisers(network, Recipe(), proper="body.network", parts=network.parts)[0]
    held = {id(weight) for group in muon.param_groups for weight in group["params"]}
    for one in network.body.network.networks:
        matrices = [weight for weight in one.parameters() if weight.ndim > 1]
        assert [id(weight) in held for weight in matrices] == [True] * (len(matrices) - 1) + [False]


def test_progress_is_a_live_line_on_a_terminal_and_plain_lines_elsewhere():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, live in ((io.StringIO(), False), (Terminal(), True)):
        line = ProgressLine("net", 1000, stream)
        line.last -= 1
        line.step(100, lambda: "loss 1")
        line.line(200, "loss 0.5")
        text = stream.getvalue()
        assert "net: 200/1000 stamps, loss 0.5" in text
        assert "stamps/s" in text
        assert "left" in text
        assert ("\r" in text) == live
        assert text.count("\n") == 1


def test_model_file_gives_the_same_network(trained, model, splits):
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, trained[0]["state"][name])
    assert model.about["variant"] == "tiny"
    assert model.about["seed"] == 1
    assert model.about["fingerprint"] == "f"
    assert model.about["population"] == "exp_gauss"
    assert model.about["parameters"] == sum(p.numel() for p in model.network.parameters())


def test_a_foreign_model_file_is_refused_in_plain_words(trained, tmp_path):
    path = tmp_path / "model.pt"
    save_model(path, trained[0])
    whole = path.read_bytes()

    def refused(*said, **expected):
        with pytest.raises(ContractError) as error:
            load_model(path, **expected)
        for part in (*said, "model.pt", "'train'"):
            assert part in str(error.value)

    refused("variant", "'tiny'", "'pooled'", expect_variant="pooled")
    refused("population", "'cosmos'", expect_population="cosmos")
    refused("seed", expect_seed=3)
    path.write_bytes(whole[: len(whole) // 2])
    refused("unreadable")
    path.write_text("hello")
    refused("unreadable")
    save(path, {"a": 1})
    refused("format")
    save(path, trained[0] | {"architecture": "nothing"})
    refused("nothing")
    save(path, trained[0] | {"options": trained[0]["options"] | {"width": 9}})
    refused("state")
    save(path, {key: value for key, value in trained[0].items() if key != "pixel_scale"})
    refused("pixel_scale")
    save(path, trained[0] | {"versions": print})  # code is never loaded
    refused("unreadable")


def test_predictions_have_shapes_errors_and_time(model, splits):
    shapes, seconds = predict(model, splits[1], 1e-3, seed=3)
    assert seconds > 0
    assert (shapes.flag == 0).all()
    assert shapes.g1.shape == shapes.g2_err.shape == (48,)
    assert shapes.g1.dtype == np.float64
    assert (shapes.g1_err > 0).all()
    (batch,) = splits[1].batches(1e-3, 3, 48)
    with torch.inference_mode():
        answer = model.network(
            torch.from_numpy(batch.images), torch.from_numpy(batch.psf), torch.tensor(1e-3)
        )
    np.testing.assert_allclose(np.stack([shapes.g1, shapes.g2], 1), answer.shapes, rtol=0, atol=1e-6)
    again, _ = predict(model, splits[1], 1e-3, seed=3, batch=7)
    np.testing.assert_allclose(again.g1, shapes.g1, rtol=0, atol=1e-6)
    assert not np.allclose(predict(model, splits[1], 1e-3, seed=4)[0].g1, shapes.g1, rtol=0, atol=1e-6)


def test_a_bad_pixel_flags_its_stamp_and_no_other(model, splits, tmp_path):
    import h5py

    stamps, _ = make_split(tmp_path, "test", 20)
    clean, _ = predict(model, stamps, 1e-3, seed=3)
    with h5py.File(stamps.paths[0], "r+") as file:
        file["images"][3, 4, 5] = np.nan
        file["images"][7, 0, 0] = np.inf
    shapes, _ = predict(model, stamps, 1e-3, seed=3)
    bad = np.isin(np.arange(20), [3, 7])
    assert (shapes.flag[bad] == Flag.BAD_PIXELS).all()
    assert np.isnan(shapes.g1[bad]).all()
    assert np.isnan(shapes.g1_err[bad]).all()
    np.testing.assert_array_equal(shapes.g1[~bad], clean.g1[~bad])
    assert (shapes.flag[~bad] == 0).all()


def test_a_psf_for_each_galaxy_is_a_channel(tmp_path):
    splits = make_splits(tmp_path, 64, 16, "sersic_moffat")
    content, _ = train(*splits, variant(epochs=1), population=EXP_GAUSS, name="tiny", seed=1)
    save_model(tmp_path / "model.pt", content)
    loaded = load_model(tmp_path / "model.pt")
    assert loaded.network.per_galaxy_psf
    shapes, _ = predict(loaded, splits[1], 1e-3, seed=3)
    assert np.isfinite(shapes.g1).all()
    stamps, _ = make_split(tmp_path, "test", 8)
    with pytest.raises(ContractError, match="population"):
        predict(loaded, stamps, 1e-3, seed=3)


# -- Rendered training data -----------------------------------------------------------------------


def test_stamps_have_less_noise_than_the_lowest_level_by_the_margin():
    examples = Examples(torch.zeros(256, 8, 8), torch.zeros(8, 8), torch.ones(256, 2))
    source = Stored(examples, 256, [1])
    source.start(0)

    def lowest(**options):
        recipe = Recipe(**options, noise_margin=10)
        assert recipe.validation_levels == Recipe(**options).validation_levels
        return draw_batch(source, slice(0, 256), recipe, SHAPES, [1], 5, torch.Generator())[2].min().item()

    assert 1e-5 <= lowest(noise=(1e-4, 1e-2)) < 5e-5
    assert lowest(noise=1e-3) == pytest.approx(1e-3)


def rendered(population, name, count=24, seed=1, targets=("flux", "x", "y", "hlr", "g1", "g2"), side=SIDE):
    chosen = Population(**PRESETS[name]) if population is None else population
    catalog = sample_catalog(chosen, name, "train", 200, 5, SCALE)
    psf = next(draw_stamps(catalog.iloc[:2], chosen, (side, side), SCALE))[1]
    return (
        Rendered(chosen, name, catalog, torch.from_numpy(psf), SCALE, targets, count, [seed]),
        catalog,
        chosen,
    )


@pytest.mark.parametrize("name", ["exp_gauss", "gauss_gauss", "sersic_moffat"])
def test_rendered_stamps_are_galsims(name):
    source, _, population = rendered(None, name)
    source.start(0)
    table = source._table(1, 0, 24)
    images, psf, truth, *_ = source.take(slice(4, 24))
    drawn, drawn_psf = next(draw_stamps(table.iloc[4:], population, (SIDE, SIDE), SCALE))
    flux = table["flux"].to_numpy()[4:, None, None]
    # The stated tolerance, and GalSim's own, of 2e-7 of the flux.
    assert (np.abs(images.numpy() - drawn) / flux).max() < 1.2e-6
    assert psf.ndim == (3 if name == "sersic_moffat" else 2)
    # GalSim's own accuracy, by default, where galaxies do not smooth the PSF.
    assert np.abs(psf.numpy() - drawn_psf).max() < 3e-5
    if psf.ndim == 2:  # GalSim's own
        return
    rows = table.iloc[4:].itertuples()
    exact = galsim.GSParams(folding_threshold=1e-5, maxk_threshold=1e-6, maximum_fft_size=8192)
    for one, row in zip(psf, rows):
        drawn_psf = (
            psf_object(row, population.psf).withGSParams(exact).drawImage(nx=SIDE, ny=SIDE, scale=SCALE)
        )
        assert np.abs(one.numpy() - drawn_psf.array).max() < 1.2e-6
    np.testing.assert_allclose(truth[:, G], table[["g1", "g2"]].to_numpy()[4:], rtol=1e-6)
    np.testing.assert_allclose(truth[:, X], table["dx"].to_numpy()[4:], rtol=1e-6)


def test_rendered_batches_follow_from_seed_epoch_and_step():
    recipe, generator = Recipe(data="rendered", noise=1e-3), torch.Generator()

    def batch(seed, epoch, step=7):
        source, *_ = rendered(None, "exp_gauss", seed=seed, targets=SHAPES)
        source.start(epoch)
        return draw_batch(source, slice(8, 24), recipe, SHAPES, [seed], step, generator)[:4]

    first = batch(1, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, batch(1, 0)))
    for other in (batch(1, 1), batch(2, 0)):
        assert not torch.isin(first[3].abs(), other[3].abs()).any()
    other = batch(1, 0, step=8)
    assert torch.equal(first[3], other[3])
    assert not torch.equal(first[0], other[0])


def test_rendered_galaxies_are_in_no_split():
    source, catalog, population = rendered(None, "exp_gauss", count=500)
    seen = {tuple(row) for row in catalog[["g1", "flux"]].to_numpy().round(12)}
    for split in ("validation", "test", "shear"):
        table = sample_catalog(population, "exp_gauss", split, 500, 5, SCALE)
        seen |= {tuple(row) for row in table[["g1", "flux"]].to_numpy().round(12)}
    for epoch in range(3):
        fresh = {tuple(row) for row in source._table(1, epoch, 500)[["g1", "flux"]].to_numpy().round(12)}
        assert len(fresh) == 500
        assert not fresh & seen
        seen |= fresh


def test_rendered_galaxies_of_a_catalogue_are_those_dealt_to_the_training_split():
    from pathlib import Path

    file = Path(__file__).parents[2] / "data/galsim/real_galaxy_catalog_23.5_example.fits"
    population = Population(**{**PRESETS["cosmos"], "catalogue_file": str(file)})
    source, *_ = rendered(population, "cosmos", count=400)
    kept = {
        split: set(sample_catalog(population, "cosmos", split, 2000, 5, SCALE)["cosmos_index"])
        for split in ("train", "validation", "test", "shear")
    }
    for epoch in (0, 1):
        found = set(source._table(1, epoch, 400)["cosmos_index"])
        assert len(found) > 1
        assert found <= kept["train"]
        assert not found & (kept["validation"] | kept["test"] | kept["shear"])


def test_images_cannot_be_rendered_and_it_is_said_in_one_line():
    population = {"profile": "cosmos-real", "catalogue_file": "nowhere.fits"}
    catalog = sample_catalog(EXP_GAUSS, "mine", "train", 2, 5, SCALE)
    with pytest.raises(ConfigError) as error:
        Rendered(Population(**population), "mine", catalog, torch.zeros(SIDE, SIDE), SCALE, SHAPES, 8, [1])
    said = str(error.value)
    assert "\n" not in said
    for part in ("training.data", "'mine'", "'stored'"):
        assert part in said


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (lambda: variant(loss="nll"), ["'nll'", "options.head", "gaussian"]),
        (
            lambda: another("whitened", {**WHITENED, "head": "gaussian"}),
            ["options.head", "training.loss", "nll"],
        ),
        (lambda: variant(loss="msb"), ["training.loss", "msb", "realisations"]),
        (lambda: variant(loss="msb", realisations=3), ["training.realisations", "3", "batch_size", "16"]),
        (lambda: variant(optimiser="sope"), ["training.optimiser", "'sope'", "did you mean 'soap'"]),
        (
            lambda: another("refined", {"first": {"architecture": "whitned"}}),
            ["options.first.architecture: ", "'whitned'", "did you mean 'whitened'"],
        ),
        (
            lambda: another("refined", {"first": {"options": {"widht": 3}}}),
            ["variants.tiny.options.first.options.widht: ", "did you mean 'width'"],
        ),
        (lambda: another("refined", {"head": "gaussian"}), ["options.head", "point"]),
        (
            lambda: another("pooled", {"head": "gaussian", "separate": True}, loss="nll"),
            ["options.separate", "head", "point"],
        ),
        (lambda: variant(loss="power", noise=1e-3), ["training.loss", "'power'", "0.001", "mse"]),
        (lambda: variant(curriculum="easy_to_hard", noise=1e-3), ["training.curriculum", "0.001", "mixed"]),
        (lambda: variant(curriculum="hard_to_easy", fresh_noise=False), ["training.curriculum", "true"]),
        (lambda: variant(galaxies=161), ["training.galaxies: 161", "the 160 galaxies", "rendered"]),
        (lambda: variant(galaxies=8), ["training.batch_size: 16", "8"]),
        (lambda: variant(d4=False), ["training.d4", "augmentation: []"]),
        (lambda: variant(augmentation=["d4", "mixpu"]), ["training.augmentation", "did you mean 'mixup'"]),
        (lambda: variant(augmentation=["d4", "d4"]), ["training.augmentation", "'d4' twice"]),
        (lambda: variant(schedule="constant", final_rate=0.1), ["training.final_rate", "0.1", "cosine"]),
        (lambda: variant(target_weights={"flux": 1}), ["training.target_weights", "'flux'", "g1, g2"]),
        (lambda: variant(target_weights={"g3": 1}), ["training.target_weights", "'g3'", "did you mean 'g"]),
        (
            lambda: another("dilated", {"head": "gaussian"}, loss="nll", target_weights={"g1": 1}),
            ["training.target_weights", "nll"],
        ),
        (lambda: variant(target_weights={"g1": 0, "g2": 0}), ["training.target_weights", "0", "g1, g2"]),
        (
            lambda: another("refined", {"share": 0.1}, loss="msb", realisations=4, batch_size=32),
            ["options.share: 3 of the 32 stamps of a step", "at least 4"],
        ),
        (
            lambda: another("refined", {"profile": "sersic", "forward_model": "mixture"}),
            ["options.forward_model: 'mixture'", "use auto or fourier"],
        ),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(splits, chosen, said):
    with pytest.raises(ConfigError) as error:
        train(*splits, chosen(), population=EXP_GAUSS, name="tiny", seed=1)
    assert "\n" not in str(error.value)
    for part in ("variants.tiny", *said):
        assert part in str(error.value)


# -- The Gaussian head ----------------------------------------------------------------------------


def test_the_likelihood_is_that_of_the_normal_distribution():
    residual, raw = torch.randn(50, 2), 0.3 * torch.randn(50, 3)
    first, cross, second = raw[:, 0].exp(), raw[:, 1], raw[:, 2].exp()
    lower = torch.stack([torch.stack([first, 0 * first], 1), torch.stack([cross, second], 1)], 1)
    normal = torch.distributions.MultivariateNormal(torch.zeros(2), precision_matrix=lower.mT @ lower)
    expected = -normal.log_prob(residual) - np.log(2 * np.pi)
    found = objective._negative_log_likelihood(residual, torch.stack([first, cross, second], 1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_likelihood_finds_a_covariance_with_its_correlation_and_68_per_cent_are_covered(splits):
    n, truth = 4000, torch.tensor([[4.0, -1.8], [-1.8, 1.0]]) * 1e-4
    generator = torch.Generator().manual_seed(2)
    residual = torch.randn(n, 2, generator=generator) @ torch.linalg.cholesky(truth).mT
    network = untrained(splits, {**WHITENED, "head": "gaussian"}, "whitened", loss="nll").networks[0]
    raw, snr = torch.zeros(1, 3, requires_grad=True), torch.full((1,), 30.0)
    optimiser = torch.optim.LBFGS([raw], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = objective._negative_log_likelihood(residual, network._precision(raw, snr).expand(n, 3)).mean()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        first, cross, second = network._precision(raw, snr)[0].tolist()
    lower = torch.tensor([[first, 0.0], [cross, second]], dtype=torch.float64)
    found = torch.linalg.inv(lower.T @ lower)
    sample = (residual.double().T @ residual.double()) / n
    torch.testing.assert_close(found, sample, rtol=1e-3, atol=1e-8)  # the maximum of the likelihood
    torch.testing.assert_close(found.float(), truth, rtol=0.15, atol=0)
    # Errors from it are right as they are: their calibration finds a factor of 1.
    zero, ones = torch.zeros(n, 2), torch.ones(n)
    error = found.diagonal().sqrt().float().expand(n, 2)
    snrs = 20 + torch.rand(n, generator=generator)
    network.calibrate([1e-3], [residual / error], [snrs])
    answer = Answer(zero, error, snrs * ones, zero, None)
    calibrated = network.errors(answer, 1e-3)
    assert ((calibrated / error - 1).abs() < 0.1).all()
    assert (residual.abs() < calibrated).float().mean() == pytest.approx(0.6827, abs=0.01)


def test_a_gaussian_head_learns_its_errors(splits, tmp_path):
    options = {**WHITENED, "head": "gaussian", "auxiliary": True}
    training = {"loss": "nll", "optimiser": "soap", "data": "rendered", "augmentation": []}
    chosen = another("whitened", options, **training, epochs=2, epoch_stamps=3200)
    content, history = train(*splits, chosen, population=EXP_GAUSS, name="tiny", seed=1)
    assert np.isfinite(history.to_numpy()).all()
    # 1 is predicting zero; 400 steps come to 0.2, whatever the rounding.
    assert history["validation_loss"].min() < 0.7
    save_model(tmp_path / "model.pt", content)
    shapes, _ = predict(load_model(tmp_path / "model.pt"), splits[1], 1e-2, seed=3)
    found = np.stack([shapes.g1_err, shapes.g2_err])
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert (found[0] != found[1]).all()


# -- SOAP -----------------------------------------------------------------------------------------


def descend(optimiser, weight, gradient, steps):
    for _ in range(steps):
        weight.grad = gradient(weight.detach())
        optimiser.step()


def test_soap_is_adam_where_the_axes_are_the_preconditioners():
    # Gradients are diagonal, so that the eigenbasis is that of the weights, in another order.
    target, curvature = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.tensor([1.0, 30.0, 0.1, 5.0])

    def gradient(weight):
        return torch.diag(curvature * (weight.diagonal() - target))

    weights = [torch.nn.Parameter(torch.zeros(4, 4)) for _ in range(2)]
    soap = Soap([weights[0]], lr=0.02)
    adam = torch.optim.Adam([weights[1]], lr=0.02, betas=(0.95, 0.95))
    descend(soap, weights[0], gradient, 1)
    assert not weights[0].detach().any()  # the first step only measures
    descend(soap, weights[0], gradient, 60)
    descend(adam, weights[1], gradient, 60)
    torch.testing.assert_close(*(weight.detach() for weight in weights), rtol=1e-4, atol=1e-5)
    assert weights[0].detach().diagonal().abs().min() > 0.1


def quadratic(seed=0, size=(8, 8)):
    """Return the gradient of a badly conditioned quadratic form, whose axes are not those of the weights."""
    generator = torch.Generator().manual_seed(seed)
    sides = []
    for n in size:
        axes = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
        sides.append(axes @ torch.diag(torch.logspace(0, -2, n, dtype=torch.float64)) @ axes.T)
    target = torch.randn(size, generator=generator, dtype=torch.float64)

    def gradient(weight):
        return sides[0] @ (weight - target) @ sides[1]

    def loss(weight):
        return float(((weight - target) * gradient(weight)).sum())

    return gradient, loss, sides


def test_soap_is_ahead_of_adam_where_the_axes_are_others():
    gradient, loss, _ = quadratic()
    left = {}
    for name in ("soap", "adam"):
        weight = torch.nn.Parameter(torch.zeros(8, 8, dtype=torch.float64))
        adam = torch.optim.Adam([weight], lr=0.03, betas=(0.95, 0.95))
        descend(Soap([weight], lr=0.03) if name == "soap" else adam, weight, gradient, 200)
        left[name] = loss(weight.detach()) / loss(torch.zeros_like(weight))
    assert left["soap"] < 1e-3
    assert left["soap"] < 0.5 * left["adam"]


def test_soap_knows_no_axes():
    gradient, _, sides = quadratic()
    left, right = (torch.linalg.qr(side + 0.3)[0] for side in sides)
    weights = [torch.nn.Parameter(torch.zeros(8, 8, dtype=torch.float64)) for _ in range(2)]
    descend(Soap([weights[0]], lr=0.03), weights[0], gradient, 30)
    descend(
        Soap([weights[1]], lr=0.03), weights[1], lambda w: left @ gradient(left.T @ w @ right.T) @ right, 30
    )
    turned = left @ weights[0].detach() @ right
    torch.testing.assert_close(weights[1].detach(), turned, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("largest", [1024, 10])
def test_soap_goes_on_from_its_state_to_the_same_bits(tmp_path, largest):
    gradient, *_ = quadratic(size=(12, 8))

    def fresh():
        weight = torch.nn.Parameter(torch.zeros(12, 2, 2, 2))
        return weight, Soap([weight], lr=0.03, weight_decay=0.1, largest=largest)

    def slope(weight):
        return gradient(weight.double().flatten(1)).float().reshape(weight.shape)

    whole, optimiser = fresh()
    descend(optimiser, whole, slope, 25)
    weight, optimiser = fresh()
    descend(optimiser, weight, slope, 12)
    torch.save([weight.detach(), optimiser.state_dict()], tmp_path / "state.pt")
    weight, optimiser = fresh()
    kept, state = torch.load(tmp_path / "state.pt", weights_only=True)
    with torch.no_grad():
        weight.copy_(kept)
    optimiser.load_state_dict(state)
    descend(optimiser, weight, slope, 13)
    assert torch.equal(weight, whole)
    assert ("basis0" in optimiser.state[weight]) == (largest > 12)


def test_soap_leaves_a_gradient_that_is_not_finite_to_its_own_network():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 4, 3, generator=generator)
    gradients = torch.randn(9, 2, 4, 3, generator=generator)
    weights = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    for bad, weight in enumerate(weights):
        optimiser = Soap([weight], lr=0.1, stacked=1)
        for gradient in gradients:
            weight.grad = gradient.clone()
            if bad:
                weight.grad[1, 2] = torch.nan
            optimiser.step()
    assert torch.equal(weights[0][0], weights[1][0])
    assert torch.isnan(weights[1][1]).all()


def test_soap_stands_gradients_of_zero():
    weight = torch.nn.Parameter(torch.ones(4, 3))
    optimiser = Soap([weight], lr=0.1)
    descend(optimiser, weight, torch.zeros_like, 12)
    assert torch.equal(weight.detach(), torch.ones(4, 3))
    descend(optimiser, weight, torch.ones_like, 12)
    assert torch.isfinite(weight).all()


# -- Refined networks -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exp_gauss", "sersic_moffat"])
def test_a_refined_network_comes_back_from_its_model_file(tmp_path, name):
    population = Population(**PRESETS[name])
    splits = make_splits(tmp_path, 64, 24, name)
    chosen = another(
        "refined",
        {"first": {"architecture": "whitened", "options": {**WHITENED, "psf_components": 8}}, "steps": 2},
        epochs=2,
    )
    content, history = train(*splits, chosen, population=population, name="tiny", seed=1)
    assert np.isfinite(history.to_numpy()).all()
    save_model(tmp_path / "model.pt", content)
    model = load_model(tmp_path / "model.pt", "tiny", name, 1)
    assert same_weights(content, {"state": model.network.state_dict()})
    options = model.about["options"]
    assert options["profile"] == {"exp_gauss": "exponential", "sersic_moffat": "sersic"}[name]
    assert model.network.targets[-1] == ("n" if name == "sersic_moffat" else "g2")
    assert options["first"]["options"]["components"] == 32
    assert options["first"]["options"]["activation"] == "gelu"  # all of them, not only those given
    shapes, _ = predict(model, splits[1], 1e-4, seed=3)
    assert (shapes.flag == Flag.GOOD).all()
    assert (shapes.g1_err > 0).all()
    assert predict(model, splits[1], 1e-4, seed=3)[0].g1.tolist() == shapes.g1.tolist()


def test_defaults_of_the_first_network_are_spelled_out():
    options = resolve_variant("refined", {}, Recipe()).options
    assert options["first"]["options"]["width"] > 0
