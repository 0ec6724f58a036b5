"""Training by several processes (gloo, on the CPU) and in other precisions."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from simulated import make_splits, train
from torch.utils._python_dispatch import TorchDispatchMode

from shearbench.errors import ConfigError
from shearbench.jobs.devices import claim_gpus
from shearbench.networks.modules import dihedral
from shearbench.networks.modules.refinement import Refinement
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear.data import Examples, Splits, Stored, draw_batch
from shearbench.tasks.shear.train import ShearTask
from shearbench.tools import efficiency
from shearbench.training import launch
from shearbench.training.arithmetic import arithmetic
from shearbench.training.loop import Training
from shearbench.training.recipe import Recipe
from shearbench.training.task import Job
from shearbench.training.train import train_share
from shearbench.training.variants import resolve_variant
from shearbench.training.workers import Workers

CPU = torch.device("cpu")
pytestmark = pytest.mark.trains
WHITENED = {
    "base": "whitened",
    "options": {"components": 32, "width": 16, "blocks": 1},
    "training": {"epochs": 2, "batch_size": 30, "validation_stamps": 32, "noise": [1e-4, 1e-2]},
}
REFINED = {
    "base": "refined",
    "options": {"first": {"architecture": "whitened", "options": WHITENED["options"]}},
    "training": WHITENED["training"],
}
DILATED = {
    "base": "dilated",
    "options": {"width": 8, "hidden": [16]},
    "training": {**WHITENED["training"], "loss": "msb", "realisations": 3},
}


def variant(entry, **training):
    return resolve_variant("tiny", {**entry, "training": {**entry["training"], **training}}, Recipe())


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return make_splits(tmp_path_factory.mktemp("stamps"), 240, 48)


def trained(splits, chosen, **arguments):
    population = Population(**PRESETS["exp_gauss"])
    return train(*splits, chosen, population=population, name="tiny", seed=1, **arguments)


def make_training(splits, chosen, device=CPU, population="exp_gauss", seeds=(1,)):
    """Return a training at its start, as `train` makes it."""
    task = ShearTask.of(Splits(*splits), chosen, Population(**PRESETS[population]), "tiny")
    training = Training(task.start(seeds, device, Workers()), task.recipe, seeds)
    training.objective.start_epoch(0)
    return training


def take_steps(training, count, whole=10**6):
    for k in range(count):
        training._step(k, whole)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("realisations", [1, 3])
@pytest.mark.parametrize("names", [("d4",), ("rotation", "shift", "cutout"), ("d4", "cutmix", "mixup")])
def test_the_shares_are_together_the_batch_of_one_process(size, realisations, names):
    images = torch.randn(60, 6, 6)
    mixing = "mixup" in names
    examples = Examples(images, images[0] if mixing else images.roll(1, 0), torch.randn(60, 2))
    recipe = Recipe(
        noise=(1e-3, 1), batch_size=30 * realisations, realisations=realisations, augmentation=names
    )
    source = Stored(examples, 60, [1])
    source.start(0)

    def batch(workers=None):
        return draw_batch(source, slice(30, 60), recipe, ("g1", "g2"), [1], 5, torch.Generator(), workers)[:4]

    whole = batch()
    for rank in range(size):
        workers = Workers(rank, size)
        for share, values in zip(batch(workers), whole):
            if values.ndim == 2 and len(values) == 6:  # the PSF of all
                continue
            by_galaxy = values.unflatten(0, (30, realisations))
            assert torch.equal(share, by_galaxy[workers.share].flatten(0, 1))


def test_turned_parts_are_those_of_a_whole_batch():
    images, shapes = torch.randn(30, 6, 6), torch.randn(30, 2)
    counts = [len(part) for part in images.tensor_split(dihedral.ORDER)]
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            dihedral.augment(images, images[0], shapes, ("g1", "g2")),
            dihedral.augment(images, images[0], shapes, ("g1", "g2"), counts),
        )
    )


@pytest.mark.parametrize("entry", [WHITENED, REFINED, DILATED], ids=["whitened", "refined", "msb"])
@pytest.mark.parametrize("size", [2, 7])
def test_gradients_of_the_shares_add_up(splits, monkeypatch, entry, size):
    """Losses and gradients of the parts of a batch add up to those of the batch."""
    chosen = variant(entry)
    training, sums = make_training(splits, chosen), []
    network, objective = training.network.train(), training.objective

    def losses(workers):
        objective.workers, objective.own_refined = workers, objective.refined_by(workers)
        objective.mean_square = torch.ones_like(objective.mean_square)
        batch = objective.draw(slice(0, chosen.training.batch_items), 0, training.generator)
        loss = objective.loss(network, batch, objective.refine_from)
        network.zero_grad()
        loss.backward()
        gradients = torch.cat([w.grad.flatten() for w in training.weights if w.grad is not None])
        return loss.item(), gradients, objective.mean_square

    def note(self, *tensors):
        sums[-1].append([tensor.clone() for tensor in tensors])

    def give(self, *tensors):
        for tensor, total in zip(tensors, totals):
            tensor.copy_(total)

    expected = losses(Workers())
    monkeypatch.setattr(Workers, "add", note)
    for rank in range(size):
        sums.append([])
        losses(Workers(rank, size))
    totals = [torch.stack(one).sum(0) for one in zip(*(asked[0] for asked in sums))]
    monkeypatch.setattr(Workers, "add", give)
    found = [losses(Workers(rank, size)) for rank in range(size)]
    assert sum(loss for loss, _, _ in found) == pytest.approx(expected[0], rel=1e-5)
    added = torch.stack([gradients for _, gradients, _ in found]).sum(0)
    assert (added - expected[1]).norm() < 1e-5 * expected[1].norm()
    for _, _, mean_square in found:
        torch.testing.assert_close(mean_square, expected[2])


def way_of(model, splits, chosen):
    """Return the change of the weights by a training."""
    start = make_training(splits, chosen).networks[0]
    names = [name for name, _ in start.named_parameters()]
    return torch.cat([(model["state"][name] - start.state_dict()[name]).flatten() for name in names])


def test_two_processes_take_the_steps_of_one(splits, tmp_path, capfd):
    chosen = variant(WHITENED, optimiser="muon")  # SOAP's first basis makes much of a rounding
    one, history = trained(splits, chosen)
    two, shared = trained(splits, chosen, gpus=2, checkpoint=tmp_path / "c.pt")
    way, its = (way_of(model, splits, chosen) for model in (one, two))
    assert (its - way).norm() < 1e-3 * way.norm()
    np.testing.assert_allclose(shared["validation_rmse"], history["validation_rmse"], rtol=0.01)
    np.testing.assert_allclose(shared["train_loss"], history["train_loss"], rtol=0.01)
    said = capfd.readouterr().err
    assert said.count("tiny seed 1: 480/480 stamps") == 2  # once each, by the first
    # One process takes up what two left: all is done, and nothing is trained again.
    again, _ = trained(splits, chosen, checkpoint=tmp_path / "c.pt")
    assert all(torch.equal(again["state"][name], value) for name, value in two["state"].items())


EPOCHS = 40
PROGRAM = """
import pickle, sys
from shearbench.tasks.shear.train import train
try:
    model, history = train(*pickle.load(open(sys.argv[1], "rb")))
except OSError as error:
    sys.exit(f"error: {error}")
pickle.dump((model, history), open(sys.argv[2], "wb"))
"""


@pytest.fixture
def job(splits, tmp_path):
    """Start a training by two processes from a process of its own."""
    import pickle

    chosen = variant(WHITENED, epochs=EPOCHS)
    population = Population(**PRESETS["exp_gauss"])
    job = Job(seed=1, checkpoint=tmp_path / "c.pt", gpus=2)
    (tmp_path / "arguments").write_bytes(pickle.dumps((Splits(*splits), chosen, population, "tiny", job)))
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", tmp_path / "arguments", tmp_path / "result"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if "stamps/s" in line:
            break
    else:
        pytest.fail("it ended before its first epoch did")
    yield process
    process.kill()
    process.stdout.close()
    process.wait()


def test_a_training_has_different_gpus_and_says_when_there_are_too_few(monkeypatch, tmp_path):
    assert claim_gpus(["a", "b"], 2) == [0, 1]
    assert claim_gpus(["0", "1", "2", "3"], 2, tmp_path) == [0, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.0", "1.0"]
    monkeypatch.setattr(launch, "visible_gpus", lambda: ["7"])
    with pytest.raises(ConfigError, match="on 2 GPUs: this job has only 1"):
        launch.launch(2, train_share, ())


def ranks_of(process):
    import psutil

    family = psutil.Process(process.pid).children(recursive=True)
    ranks = [one for one in family if one.environ().get("LOCAL_RANK") is not None]
    return sorted(ranks, key=lambda one: one.environ()["LOCAL_RANK"])


def gone(processes):
    import psutil

    return not psutil.wait_procs(processes, timeout=20)[1]


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["the job", "a process"])
def test_sigterm_to_any_saves_the_state_of_all(splits, job, tmp_path, whom):
    ranks = ranks_of(job)
    assert len(ranks) == 2
    os.kill(job.pid if whom == "the job" else ranks[1].pid, signal.SIGTERM)
    said = job.communicate(timeout=60)[0]
    assert job.returncode == 143, said
    assert gone(ranks)
    step = torch.load(tmp_path / "c.pt", weights_only=True)["state"]["step"]
    assert 0 < step < 8 * EPOCHS
    if whom == "a process":
        chosen = variant(WHITENED, epochs=EPOCHS)
        resumed, _ = trained(splits, chosen, gpus=2, checkpoint=tmp_path / "c.pt")
        whole, _ = trained(splits, chosen, gpus=2)
        assert all(torch.equal(resumed["state"][name], value) for name, value in whole["state"].items())


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["a process", "torchrun"])
def test_a_process_that_dies_takes_the_others_along_and_is_named(job, whom):
    ranks = ranks_of(job)
    (ranks[1] if whom == "a process" else ranks[1].parent()).kill()
    said = job.communicate(timeout=60)[0]
    assert job.returncode == 1
    assert said.splitlines()[-1].startswith("error: one of the 2 processes of this training died")
    assert whom == "torchrun" or "Signal 9 (SIGKILL)" in said
    assert gone(ranks)


@pytest.mark.slow
def test_killed_it_leaves_no_process_behind(job):
    import psutil

    family = psutil.Process(job.pid).children(recursive=True)
    folder = Path(ranks_of(job)[0].cmdline()[-2])
    assert folder.is_dir()
    job.kill()
    assert gone(family)
    assert not folder.exists()


class Waits(TorchDispatchMode):
    """Records operations for which the CPU must wait for the GPU.

    They read a number from the GPU, or (``lift_fresh``) make a tensor of Python's numbers, a list as an index
    for example, which is copied to the GPU.
    """

    NAMES = (
        "_local_scalar_dense",
        "_linalg_check_errors",
        "nonzero",
        "masked_select",
        "_unique2",
        "equal",
        "lift_fresh",
    )

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._schema.name.removeprefix("aten::") in self.NAMES:
            self.found.append(function._schema.name)
        return function(*args, **(kwargs or {}))


STEPS = [
    (WHITENED, {}),
    (REFINED, {"ema": 0.9}),
    (DILATED, {}),
    (DILATED, {"loss": "huber", "optimiser": "adamw"}),
    (WHITENED, {"loss": "power", "optimiser": "sgd", "target_weights": {"g1": 2}}),
    (WHITENED, {"data": "stored", "augmentation": ["d4"], "optimiser": "muon"}),
    (DILATED, {"augmentation": ["rotation", "shift", "brightness", "cutout"]}),
    (DILATED, {"data": "rendered", "augmentation": ["cutmix", "mixup"]}),
]


@pytest.mark.parametrize(("entry", "training"), STEPS)
@pytest.mark.parametrize("seeds", [(1,), (1, 2)], ids=["alone", "together"])
def test_no_step_waits_for_what_the_device_computes(splits, entry, training, seeds):
    started = make_training(splits, variant(entry, **training), seeds=seeds)
    for module in started.network.modules():
        if isinstance(module, Refinement):
            module.mixture = None  # NumPy computes it on a CPU only
    take_steps(started, 2, whole=8)  # the first of SOAP's has to find eigenvectors
    started.objective.refine_from = 0
    with Waits() as waits:
        take_steps(started, 3)
    assert not waits.found


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("population", "entry", "training"),
    # CutMix is refused where each stamp has a PSF of its own, as in sersic_moffat.
    [
        (name, *step)
        for name in ("exp_gauss", "sersic_moffat")
        for step in STEPS[: None if name == "exp_gauss" else -1]
    ],
)
@pytest.mark.parametrize("seeds", [(1,), (1, 2)], ids=["alone", "together"])
def test_no_step_makes_the_host_wait_for_the_gpu(tmp_path, population, entry, training, seeds):
    device = torch.device("cuda")
    splits = make_splits(tmp_path, 240, 48, population)
    started = make_training(splits, variant(entry, **training), device, population, seeds)
    started.objective.refine_from = 0
    take_steps(started, 8)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_steps(started, 8)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bfloat16_is_for_the_network_in_training_steps_alone(splits):
    chosen = variant(WHITENED, precision="bfloat16")
    training = make_training(splits, chosen)
    network, seen = training.network, []
    body = network.get_submodule("body.network")
    layer = next(module for module in body.modules() if isinstance(module, torch.nn.Linear))
    layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    images, psf = training.objective.validation.images, training.objective.validation.psf
    sigma = images.new_tensor(1e-3)
    with torch.no_grad():
        exact = network.eval()(images, psf, sigma).shapes
        with arithmetic(body, chosen.training, CPU):
            rounded = network.train()(images, psf, sigma).shapes
            answered = network.eval()(images, psf, sigma).shapes
        after = network.train()(images, psf, sigma).shapes
    assert seen == [(torch.float32, torch.float32 if k != 1 else torch.bfloat16) for k in range(4)]
    assert rounded.dtype == torch.float32
    assert torch.equal(exact, answered)
    assert torch.equal(exact, after)
    assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float64"])
def test_every_precision_trains_and_leaves_nothing_changed(splits, precision):
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [one.allow_tf32 for one in flags]
    chosen = variant(WHITENED, optimiser="muon")
    plain, _ = trained(splits, chosen)
    model, _ = trained(splits, variant(WHITENED, optimiser="muon", precision=precision))
    assert [one.allow_tf32 for one in flags] == before
    assert all(value.dtype == plain["state"][name].dtype for name, value in model["state"].items())
    same = all(torch.equal(plain["state"][name], value) for name, value in model["state"].items())
    assert same == (precision in ("float32", "tf32"))  # TF32 is of GPUs
    # How short trainings end differs from machine to machine: these go the same way from the same start.
    way, its = (way_of(one, splits, chosen) for one in (plain, model))
    assert torch.cosine_similarity(way, its, dim=0) > 0.9  # 0.9997 for bfloat16


@pytest.mark.slow
def test_a_compiled_network_trains_to_the_same_weights_but_for_rounding(splits):
    chosen = variant(WHITENED, optimiser="muon")
    plain, _ = trained(splits, chosen)
    compiled, _ = trained(splits, variant(WHITENED, optimiser="muon", compile=True))
    way, its = (way_of(model, splits, chosen) for model in (plain, compiled))
    assert (its - way).norm() < 1e-3 * way.norm()


@pytest.mark.slow
def test_what_cannot_be_compiled_is_said(splits, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # A process that has compiled before knows its compiler.
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh,
        pytest.raises(ConfigError, match=r"training\.compile: .*C\+\+ compiler"),
    ):
        fresh.submit(trained, splits, variant(WHITENED, compile=True)).result()


def test_steps_are_compared_with_what_the_device_can_do(splits, monkeypatch):
    monkeypatch.setattr(efficiency, "_SIDE", {"cpu": 128})
    monkeypatch.setattr(efficiency, "_COPIED", {"cpu": 2**20})
    monkeypatch.setattr(efficiency, "_SHORTEST", 0.01)
    a, b = torch.randn(30, 40), torch.randn(40, 50)
    with efficiency.Cost() as cost:
        (a @ b).mT.expand(2, 50, 30)
    assert cost.operations == [(2 * 30 * 40 * 50, 4 * (30 * 40 + 40 * 50 + 30 * 50))]
    assert cost.limit(efficiency.Rates(1e3, 1e12)) == pytest.approx(120)
    training = make_training(splits, variant(DILATED))
    found = efficiency.step_efficiency(lambda: take_steps(training, 1), training.recipe, CPU)
    assert found["limit"] > 0
    assert found["stamps_per_second"] > 0
    assert found["flops_per_stamp"] > 1e4
