import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from shearbench.catalog import sample_catalog
from shearbench.errors import ConfigError, ContractError
from shearbench.estimators.base import Flag
from shearbench.networks import resolve_variant
from shearbench.populations import PRESETS, Population
from shearbench.rendering import draw_stamps
from shearbench.stamps import StampSet, write_stamps
from shearbench.training import loop
from shearbench.training.data import Examples, draw_batch, epoch_order, load_examples
from shearbench.training.model_file import load_model, save_model
from shearbench.training.optimisers import Muon, make_optimisers, orthogonalise, rate_at
from shearbench.training.prediction import predict
from shearbench.training.progress import ProgressLine
from shearbench.training.recipe import Recipe
from shearbench.training.settings import Terminated, seeded, termination, torch_settings
from shearbench.training.train import train

SIDE, SCALE = 24, 0.3
CPU = torch.device("cpu")
TINY = {
    "base": "dilated",
    "options": {"width": 8, "hidden": [16]},
    "training": {"epochs": 5, "batch_size": 16, "validation_stamps": 32, "noise": [1e-4, 1e-2]},
}


def variant(**training):
    entry = {**TINY, "training": {**TINY["training"], **training}}
    return resolve_variant("tiny", entry, Recipe())


def make_split(folder, split, n, population="exp_gauss"):
    chosen = Population(**PRESETS[population])
    table = sample_catalog(chosen, population, split, n, 5, SCALE)
    path = folder / f"{split}.h5"
    write_stamps(
        path,
        draw_stamps(table, chosen, (SIDE, SIDE), SCALE),
        table.galaxy_id.to_numpy(),
        table.noise_id.to_numpy(),
        (SIDE, SIDE),
        not chosen.psf.constant,
        {
            "population": population,
            "split": split,
            "pixel_scale": SCALE,
            "catalog_digest": table.attrs["digest"],
        },
    )
    return StampSet([path]), table


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stamps")
    train_stamps, train_catalog = make_split(folder, "train", 160)
    validation_stamps, validation_catalog = make_split(folder, "validation", 48)
    return train_stamps, validation_stamps, train_catalog, validation_catalog


@pytest.fixture(scope="module")
def trained(splits):
    return train(*splits, variant(), name="tiny", seed=1, fingerprint="f")


@pytest.fixture
def model(trained, tmp_path):
    save_model(tmp_path / "model.pt", trained[0])
    return load_model(tmp_path / "model.pt")


def same_weights(a, b):
    assert a["state"].keys() == b["state"].keys()
    return all(torch.equal(a["state"][name], b["state"][name]) for name in a["state"])


def test_history_says_how_it_went(trained):
    content, history = trained
    assert list(history) == [
        "epoch",
        "views",
        "seconds",
        "learning_rate",
        "train_loss",
        "validation_loss",
        "validation_rmse",
    ]
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert history["views"].tolist() == [160, 320, 480, 640, 800]
    assert (history["seconds"].diff().dropna() > 0).all()
    assert history["validation_loss"].min() < 1  # better than predicting zero
    assert content["epoch"] == history["epoch"].iloc[history["validation_loss"].argmin()]


def test_same_seed_same_weights_another_seed_others(splits, trained):
    again, _ = train(*splits, variant(), name="tiny", seed=1, fingerprint="f")
    other, _ = train(*splits, variant(), name="tiny", seed=2, fingerprint="f")
    assert same_weights(trained[0], again)
    assert not same_weights(trained[0], other)


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"ema": 0.9, "optimiser": "adamw"},
        {"loss": "huber", "optimiser": "muon"},
        {"epoch_stamps": 100, "d4": False, "loss": "mae", "gradient_clip": None},
    ],
)
@pytest.mark.parametrize("stop", [3, 13, 27])
def test_stopped_at_any_step_it_goes_on_to_the_same_weights(splits, tmp_path, monkeypatch, training, stop):
    chosen = variant(**{"epochs": 3, **training})
    whole, history = train(*splits, chosen, name="tiny", seed=1)
    steps = {"left": stop}
    take_step = loop.Training._step

    def dying_step(self, *arguments):
        if steps["left"] == 0:
            raise InterruptedError
        steps["left"] -= 1
        take_step(self, *arguments)

    arguments = {"name": "tiny", "seed": 1, "checkpoint": tmp_path / "c.pt"}
    monkeypatch.setattr(loop.Training, "_step", dying_step)
    died = False
    try:
        train(*splits, chosen, **arguments)
    except InterruptedError:
        died = True
    assert died == (stop < 3 * (training.get("epoch_stamps", 160) // 16))
    monkeypatch.setattr(loop.Training, "_step", take_step)
    resumed, resumed_history = train(*splits, chosen, **arguments)
    assert same_weights(whole, resumed)
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), resumed_history.drop(columns="seconds"))


PROGRAM = """
import sys
import pandas as pd, torch
from shearbench.networks import Variant
from shearbench.stamps import StampSet
from shearbench.files import read_table
from shearbench.training.model_file import save_model
from shearbench.training.train import train

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
arguments = {"name": "tiny", "seed": 1, "checkpoint": f"{folder}/c.pt", "fingerprint": "f"}
model, history = train(*splits, *catalogs, variant, **arguments)
save_model(f"{folder}/model.pt", model)
"""


@pytest.fixture
def job(splits, tmp_path):
    """Start a training in a process of its own."""
    from shearbench.files import write_table

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
    deadline = time.monotonic() + 60
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


@pytest.mark.parametrize(
    "harm", ["truncated", "foreign", "no checkpoint", "other fingerprint", "other recipe"]
)
def test_a_checkpoint_that_is_not_its_own_is_left_alone_with_a_warning(splits, tmp_path, trained, harm):
    path = tmp_path / "c.pt"
    arguments = {"name": "tiny", "seed": 1, "checkpoint": path, "fingerprint": "f"}
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
    arguments = {"name": "tiny", "seed": 1, "checkpoint": tmp_path / "c.pt"}
    first, _ = train(*splits, variant(epochs=1), **arguments)
    monkeypatch.setattr(loop.Training, "_step", None)
    second, _ = train(*splits, variant(epochs=1), **arguments)
    assert same_weights(first, second)


def test_early_stopping_keeps_the_best_weights(splits, monkeypatch):
    losses = iter([0.5, 0.4, 0.6, 0.7, 0.1])
    seen = []

    def validate(self):
        seen.append({name: value.clone() for name, value in self.network.state_dict().items()})
        loop_validate(self)

    loop_validate = loop.Training._validate
    monkeypatch.setattr(loop.Training, "_validate", validate)
    monkeypatch.setattr(
        loop,
        "evaluate",
        lambda network, examples, sigma, level, limit=None: _constant(network, examples, losses, level),
    )
    content, history = train(
        *splits, variant(epochs=5, patience=2, validation_noise=[1e-3]), name="tiny", seed=1
    )
    assert len(history) == 4
    assert content["epoch"] == 2
    assert all(torch.equal(content["state"][k], v) for k, v in seen[1].items() if not k.startswith("error"))


def _constant(network, examples, losses, level):
    value = next(losses, 1.0) if level == 0 else 1.0
    return torch.full((8, 2), value), torch.arange(1.0, 9.0)


def test_averaged_weights_are_the_mean_of_the_steps(splits):
    plain, _ = train(*splits, variant(epochs=1), name="tiny", seed=1)
    averaged, _ = train(*splits, variant(epochs=1, ema=0.999), name="tiny", seed=1)
    assert not same_weights(plain, averaged)


def test_nothing_global_is_left_changed(splits):
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), signal.getsignal(signal.SIGTERM))  # noqa: NPY002
    threads, environment = torch.get_num_threads(), dict(os.environ)
    train(*splits, variant(epochs=1, epoch_stamps=16), name="tiny", seed=1, threads=threads + 1)
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


def test_sigterm_is_noted_and_then_handled_as_before():
    def mine(signum, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with termination() as event:
            os.kill(os.getpid(), signal.SIGTERM)
            assert event.wait(5)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    assert Terminated().code == 143


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
        load_examples(stamps, catalog, CPU)
    for part in ("train.h5", field, "simulate_stamps"):
        assert part in str(error.value)


def test_what_cannot_be_trained_is_said_before_it_starts(splits):
    with pytest.raises(ConfigError, match=r"variants\.tiny.*batch_size: 500"):
        train(*splits, variant(batch_size=500), name="tiny", seed=1)
    wrong = resolve_variant("a", {"base": "pooled", "options": {"fold": 5}}, Recipe())
    with pytest.raises(ConfigError, match=r"options\.fold"):
        train(*splits, wrong, name="tiny", seed=1)


def test_an_epoch_shows_each_stamp_before_any_comes_again():
    order = epoch_order(10, 25, seed=1, epoch=0)
    assert sorted(order[:10].tolist()) == sorted(order[10:20].tolist()) == list(range(10))
    assert len(order) == 25
    assert order.tolist() == epoch_order(10, 25, seed=1, epoch=0).tolist()
    assert order.tolist() != epoch_order(10, 25, seed=1, epoch=1).tolist()
    assert order.tolist() != epoch_order(10, 25, seed=2, epoch=0).tolist()


def test_each_step_has_fresh_noise_of_the_level_it_tells():
    examples = Examples(torch.zeros(64, 16, 16), torch.zeros(16, 16), torch.ones(64, 2))
    generator, recipe = torch.Generator(), Recipe(noise=(1e-4, 1e-1))
    index = torch.arange(64)

    def batch(seed, step):
        return draw_batch(examples, index, recipe, seed, step, generator)

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
    assert draw_batch(examples, index, Recipe(noise=1e-3, d4=False), 1, 1, generator)[3].sum(0).tolist() == [
        64,
        64,
    ]
    assert (draw_batch(examples, index, Recipe(noise=1e-3), 1, 1, generator)[2] == torch.tensor(1e-3)).all()


def test_streams_of_random_numbers_differ():
    generator = torch.Generator()
    draws = {
        torch.rand((), generator=seeded(generator, *numbers)).item()
        for numbers in [(0, 1, 2), (1, 1, 2), (0, 2, 1), (0, 1, 3), (0, 1), (0, 12)]
    }
    assert len(draws) == 6


def test_loss_weighs_all_noise_levels_alike(splits):
    from shearbench.shear_network import ShearNetwork

    recipe = Recipe(noise=(1e-5, 1e-1))
    chosen = variant()
    examples = load_examples(splits[0], splits[2], CPU)
    network = ShearNetwork(chosen.make(), (SIDE, SIDE), False)
    network.fit_scaling(examples.images, examples.psf, examples.shapes)
    training = loop.Training(network, examples, examples, recipe, 0)
    generator = seeded(torch.Generator(), 1)
    for _ in range(1500):  # the running mean forgets its start by a fiftieth a step
        sigma = 10 ** (-5 + 4 * torch.rand(64, generator=generator))
        residual = sigma[:, None] * torch.randn(64, 2, generator=generator)
        training._loss(residual, sigma)
    low, high = torch.full((500,), 2e-5), torch.full((500,), 5e-2)
    unit = torch.randn(500, 2, generator=generator)
    parts = [float(training._loss(s[:, None] * unit, s)) for s in (low, high)]
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


def test_every_weight_has_one_optimiser():
    module = variant().make().build(1, (SIDE, SIDE), 2)
    for name in ("adamw", "muon"):
        optimisers = make_optimisers(module, Recipe(optimiser=name))
        held = [id(p) for o in optimisers for group in o.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in module.parameters())
    last = list(module.parameters())[-2]
    assert all(p is not last for p in optimisers[0].param_groups[0]["params"])


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
    torch.save({"a": 1}, path)
    refused("format")
    torch.save(trained[0] | {"architecture": "nothing"}, path)
    refused("nothing")
    torch.save(trained[0] | {"options": trained[0]["options"] | {"width": 9}}, path)
    refused("state")
    torch.save({key: value for key, value in trained[0].items() if key != "pixel_scale"}, path)
    refused("pixel_scale")
    torch.save(trained[0] | {"versions": print}, path)  # code is never loaded
    refused("unreadable")


def test_predictions_have_shapes_errors_and_time(model, splits):
    shapes, seconds = predict(model, splits[1], 1e-3, seed=3)
    assert seconds > 0
    assert (shapes.flag == 0).all()
    assert shapes.g1.shape == shapes.g2_err.shape == (48,)
    assert shapes.g1.dtype == np.float64
    assert (shapes.g1_err > 0).all()
    residual = np.concatenate([shapes.g1 - splits[3]["g1"], shapes.g2 - splits[3]["g2"]])
    assert np.sqrt(np.mean(residual**2)) < 0.2
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
    train_stamps, train_catalog = make_split(tmp_path, "train", 64, "sersic_moffat")
    validation = make_split(tmp_path, "validation", 16, "sersic_moffat")
    content, _ = train(
        train_stamps, validation[0], train_catalog, validation[1], variant(epochs=1), name="tiny", seed=1
    )
    save_model(tmp_path / "model.pt", content)
    loaded = load_model(tmp_path / "model.pt")
    assert loaded.network.per_galaxy_psf
    shapes, _ = predict(loaded, validation[0], 1e-3, seed=3)
    assert np.isfinite(shapes.g1).all()
    stamps, _ = make_split(tmp_path, "test", 8)
    with pytest.raises(ContractError, match="population"):
        predict(loaded, stamps, 1e-3, seed=3)
