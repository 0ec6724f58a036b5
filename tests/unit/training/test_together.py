"""Several trainings at the same time give each network as in a training alone."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from simulated import make_splits, train
from test_parallel_training import CPU, DILATED, REFINED, WHITENED, make_training, take_steps, variant

from shearbench.errors import ShearbenchError
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear import objective
from shearbench.training import loop
from shearbench.training.checkpoint import Checkpoint, claimed
from shearbench.training.loop import Training, clip_gradients
from shearbench.training.optimisers import Soap
from shearbench.training.termination import Terminated
from shearbench.training.together import Stacked, join_states, split_state

SEEDS = (3, 1, 2)
pytestmark = pytest.mark.trains
POOLED = {
    "base": "pooled",
    "options": {"width": 4, "hidden": [8], "normalisation": "batch"},
    "training": WHITENED["training"],
}
SEPARATE = {**DILATED, "options": {**DILATED["options"], "separate": True}}
# With SOAP a rounding grows to another training: it is tested by itself.
KINDS = {
    "whitened": (WHITENED, {"optimiser": "adamw"}),
    "refined": (REFINED, {"optimiser": "adamw"}),
    "msb": (DILATED, {}),
    "batch norm": (POOLED, {"optimiser": "adamw"}),
    "mean of weights": (WHITENED, {"ema": 0.9, "optimiser": "muon"}),
    "rendered": (WHITENED, {"data": "rendered", "optimiser": "muon"}),
    "bfloat16": (DILATED, {"precision": "bfloat16"}),
    "augmented": (DILATED, {"augmentation": ["d4", "rotation", "shift", "cutout", "mixup"]}),
    "separate": (SEPARATE, {"optimiser": "muon"}),
    "SGD": (WHITENED, {"optimiser": "sgd", "curriculum": "easy_to_hard", "loss": "power"}),
}
# AdamW steps as far for small gradients as for large ones: these weights, and means that follow from them,
# are mostly rounding. Their effect on the answers is compared by the validation.
ROUNDING = {
    "refined": lambda name, state: name.startswith("refinement."),
    "batch norm": lambda name, state: name.endswith("running_mean") or before_normalisation(name, state),
}
TOLERANCE = 1e-3  # a hundred times the largest difference seen with three kinds of kernels


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return make_splits(tmp_path_factory.mktemp("stamps"), 240, 48)


def trained(splits, chosen, seed, **arguments):
    population = Population(**PRESETS["exp_gauss"])
    return train(*splits, chosen, population=population, name="tiny", seed=seed, **arguments)


def same(state, expected, tolerance=5e-3):
    """Assert that all weights agree, relative to the largest weight of their tensor."""
    for name, value in state.items():
        if value.numel():
            scale = expected[name].abs().max().clamp_min(1e-2)
            assert (value - expected[name]).abs().max() <= tolerance * scale, name


def before_normalisation(name, state):
    """Return whether this is the bias of a convolution."""
    return name.endswith(".bias") and state[name.removesuffix("bias") + "weight"].ndim == 4


@pytest.mark.parametrize("kind", KINDS)
def test_steps_taken_together_are_those_taken_alone(splits, kind):
    entry, options = KINDS[kind]
    chosen = variant(entry, **options)
    together = make_training(splits, chosen, seeds=SEEDS)
    together.objective.refine_from = 2
    together.epoch_steps = 5
    take_steps(together, 5, whole=16)
    together._validate()
    rounding = ROUNDING.get(kind, lambda name, state: False)
    for k, seed in enumerate(SEEDS):
        alone = make_training(splits, chosen, seeds=[seed])
        alone.objective.refine_from = 2
        alone.epoch_steps = 5
        start = alone.networks[0].state_dict()
        start = {name: value.clone() for name, value in start.items() if name.endswith("weight")}
        take_steps(alone, 5, whole=16)
        alone._validate()
        with pytest.raises(AssertionError):  # the weights went far
            same(start, alone.networks[0].state_dict(), 0.05)
        found = together.networks[k].state_dict()
        found = {name: value for name, value in found.items() if not rounding(name, found)}
        same(found, alone.networks[0].state_dict(), TOLERANCE)
        torch.testing.assert_close(mean_square(together, k), mean_square(alone, 0), rtol=TOLERANCE, atol=0)
        for name, value in alone.history[0][0].items():
            assert together.history[k][0][name] == pytest.approx(value, rel=TOLERANCE)


def test_a_psf_for_every_galaxy(tmp_path):
    splits = make_splits(tmp_path, 240, 48, "sersic_moffat")
    chosen = variant(WHITENED, data="rendered", optimiser="muon")
    together = make_training(splits, chosen, population="sersic_moffat", seeds=SEEDS)
    alone = make_training(splits, chosen, population="sersic_moffat", seeds=SEEDS[2:])
    take_steps(together, 3)
    take_steps(alone, 3)
    torch.testing.assert_close(mean_square(together, 2), mean_square(alone, 0), rtol=1e-3, atol=0)


def test_stacked_weights_are_those_of_the_modules():
    modules = [torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)) for _ in range(3)]
    apart = copy.deepcopy(modules)
    stacked = Stacked(modules)
    x = torch.randn(30, 4)
    for mode in (True, False):
        expected = torch.cat([one.train(mode)(part) for one, part in zip(apart, x.split(10))])
        torch.testing.assert_close(stacked.train(mode)(x), expected)
    for one, other in zip(modules, apart):
        assert one[1].num_batches_tracked == 1
        for name, value in other.state_dict().items():
            torch.testing.assert_close(one.state_dict()[name], value)
    with torch.no_grad():
        next(stacked.parameters())[1].zero_()
    assert (modules[1][0].weight == 0).all()
    assert (modules[2][0].weight != 0).all()


def test_gradients_are_clipped_for_each():
    weight, bias = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4, 2), (3, 4)))
    generator = torch.Generator().manual_seed(0)
    weight.grad, bias.grad = (torch.randn(w.shape, generator=generator) for w in (weight, bias))
    for grad in (weight.grad, bias.grad):
        grad[1] *= 1e-3
    before = weight.grad.clone()
    clip_gradients([weight, bias], 0.5, models=3)
    norms = (weight.grad.square().sum((1, 2)) + bias.grad.square().sum(1)).sqrt()
    assert norms[[0, 2]] == pytest.approx([0.5, 0.5], rel=1e-4)
    assert torch.equal(weight.grad[1], before[1])


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw", "muon", "soap"])
def test_the_state_of_an_optimiser_is_divided_and_joined(splits, optimiser):
    training = make_training(splits, variant(WHITENED, optimiser=optimiser), seeds=SEEDS)
    take_steps(training, 2)
    alone = make_training(splits, variant(WHITENED, optimiser=optimiser), seeds=SEEDS[1:2])
    take_steps(alone, 2)
    for one, other in zip(training.optimisers, alone.optimisers):
        state = one.state_dict()
        parts = split_state(state, 3)
        joined = join_states(parts)
        for weight, kept in state["state"].items():
            for name, value in kept.items():
                torch.testing.assert_close(joined["state"][weight][name], value, rtol=0, atol=0)
                mine, its = parts[1]["state"][weight][name], other.state_dict()["state"][weight][name]
                assert getattr(mine, "shape", None) == getattr(its, "shape", None)


def mean_square(training, k):
    """Return the running mean square errors of one network."""
    return training.objective.mean_square[k]


def files(folder):
    return {seed: folder / f"seed{seed}.pt" for seed in SEEDS}


def arguments(folder, seed):
    paths = files(folder)
    return {
        "checkpoint": paths[seed],
        "fingerprint": "f",
        "others": {other: path for other, path in paths.items() if other != seed},
        "together": 3,
    }


def test_one_call_trains_all_and_the_others_only_end(splits, tmp_path, monkeypatch, capsys):
    chosen = variant(WHITENED, optimiser="muon")  # SOAP's first basis makes much of a rounding
    alone = {seed: trained(splits, chosen, seed)[0] for seed in SEEDS}
    first, history = trained(splits, chosen, 3, **arguments(tmp_path, 3))
    assert "seed 3 1 2: 1440/1440 stamps" in capsys.readouterr().err
    same(first["state"], alone[3]["state"])
    assert list(history["epoch"]) == [1, 2]
    monkeypatch.setattr(Training, "_step", None)  # nothing is left to do
    for seed in (1, 2):
        content, _ = trained(splits, chosen, seed, **arguments(tmp_path, seed))
        assert content["seed"] == seed
        same(content["state"], alone[seed]["state"])


def test_in_float64_the_steps_taken_together_are_those_taken_alone(splits, tmp_path):
    chosen = variant(POOLED, optimiser="muon", precision="float64", ema=0.9, epochs=1)
    together, _ = trained(splits, chosen, 3, **arguments(tmp_path, 3))
    alone, _ = trained(splits, chosen, 3)
    assert all(value.dtype != torch.float64 for value in together["state"].values())
    same(
        {name: value for name, value in together["state"].items() if name.startswith("body")},
        alone["state"],
        1e-5,
    )


@pytest.mark.parametrize("entry", [WHITENED, REFINED], ids=["whitened", "refined"])
def test_killed_together_they_end_with_the_same_weights(splits, tmp_path, monkeypatch, entry):
    """The state of SOAP is restored bit for bit, in the same memory layout."""
    chosen, (whole, killed) = variant(entry), (tmp_path / "whole", tmp_path / "killed")
    expected, _ = trained(splits, chosen, 3, **arguments(whole, 3))
    step = Training._step

    def ending(self, *rest):
        if self.step == 10:
            raise KeyboardInterrupt
        step(self, *rest)

    monkeypatch.setattr(Training, "_step", ending)
    with pytest.raises(KeyboardInterrupt):
        trained(splits, chosen, 3, **arguments(killed, 3))
    monkeypatch.setattr(Training, "_step", step)
    found, _ = trained(splits, chosen, 3, **arguments(killed, 3))
    for name, value in found["state"].items():
        assert torch.equal(value, expected["state"][name]), name


def test_soap_takes_the_same_steps_for_stacked_weights():
    """In double precision, with gradients of full rank, so that the basis is unique."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    gradients = torch.randn(12, 3, 5, 4, generator=generator, dtype=torch.float64)
    together = torch.nn.Parameter(start.clone())
    alone = [torch.nn.Parameter(part.clone()) for part in start]
    optimisers = [Soap([together], 0.1, 0.01, largest=4, stacked=1)]
    optimisers += [Soap([weight], 0.1, 0.01, largest=4) for weight in alone]
    for gradient in gradients:
        together.grad = gradient.clone()
        for weight, part in zip(alone, gradient):
            weight.grad = part.clone()
        for optimiser in optimisers:
            optimiser.step()
    torch.testing.assert_close(
        together.detach(), torch.stack([w.detach() for w in alone]), rtol=0, atol=1e-12
    )
    assert (together.detach() - start).abs().min() > 1e-3


def test_five_seeds_by_twos_whatever_the_order(splits, tmp_path, monkeypatch):
    """Finished trainings, which wait for their own call, do not count."""
    seeds = range(1, 6)
    paths = {seed: tmp_path / f"seed{seed}.pt" for seed in seeds}
    steps, step = [], Training._step
    monkeypatch.setattr(
        Training, "_step", lambda self, *rest: (steps.append(tuple(self.seeds)), step(self, *rest))
    )
    for seed in (2, 5, 1, 4, 3):
        others = {other: path for other, path in paths.items() if other != seed}
        chosen = variant(WHITENED, epochs=1)
        trained(splits, chosen, seed, checkpoint=paths[seed], fingerprint="f", others=others, together=2)
    assert list(dict.fromkeys(steps)) == [(2, 1), (5, 3), (4,)]


def test_what_was_killed_goes_on_together_or_alone(splits, tmp_path, monkeypatch):
    chosen = variant(WHITENED, optimiser="muon")
    whole = {seed: trained(splits, chosen, seed)[0] for seed in SEEDS}
    taken = []
    step = Training._step

    def ending(self, *rest):
        if self.step == 10:
            raise Terminated
        taken.append(self.models)
        step(self, *rest)

    monkeypatch.setattr(Training, "_step", ending)
    with pytest.raises(Terminated):
        trained(splits, chosen, 3, **arguments(tmp_path, 3))
    assert taken == [3] * 10
    monkeypatch.setattr(Training, "_step", step)
    alone, history = trained(splits, chosen, 1, checkpoint=files(tmp_path)[1], fingerprint="f")
    assert len(history) == 2
    same(alone["state"], whole[1]["state"])
    # One of the others is further now: the remaining two go on without it.
    models = []
    monkeypatch.setattr(
        Training, "_step", lambda self, *rest: (models.append(self.models), step(self, *rest))
    )
    rest, _ = trained(splits, chosen, 2, **arguments(tmp_path, 2))
    assert set(models) == {2}
    same(rest["state"], whole[2]["state"])
    for seed in (1, 3):
        state = torch.load(files(tmp_path)[seed], weights_only=True)["state"]
        assert state["step"] == 16


def test_where_states_are_no_use_the_others_begin_with_this_one(splits, tmp_path):
    chosen = variant(WHITENED, epochs=1)
    trained(splits, chosen, 1, **{**arguments(tmp_path, 1), "others": {}, "fingerprint": "other"})
    files(tmp_path)[2].write_text("no state")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trained(splits, chosen, 3, **arguments(tmp_path, 3))
    told = " ".join(str(one.message) for one in said)
    assert "seed1.pt is not used: it belongs to another training (different fingerprint)" in told
    assert "seed2.pt is not used: it cannot be read" in told
    for path in files(tmp_path).values():
        assert torch.load(path, weights_only=True)["identity"]["fingerprint"] == "f"


@pytest.mark.parametrize("option", ["dropout", "spatial_dropout"])
def test_networks_that_drop_out_train_alone(splits, tmp_path, option):
    chosen = variant({**DILATED, "options": {**DILATED["options"], option: 0.2}}, epochs=1)
    trained(splits, chosen, 3, **arguments(tmp_path, 3))
    assert [path.name for path in tmp_path.glob("*.pt")] == ["seed3.pt"]


@pytest.mark.parametrize("entry", [WHITENED, REFINED, DILATED], ids=["whitened", "refined", "msb"])
def test_one_that_diverges_leaves_the_others_alone(splits, tmp_path, monkeypatch, entry):
    """Weights are equal bit for bit, and each call reports the end of its own training."""
    chosen, (whole, broken) = variant(entry), (tmp_path / "whole", tmp_path / "broken")
    trained(splits, chosen, 3, **arguments(whole, 3))
    expected = {seed: trained(splits, chosen, seed, **arguments(whole, seed))[0]["state"] for seed in (3, 2)}
    step = Training._step

    def breaking(self, *rest):
        if self.step == 3:
            with torch.no_grad():
                for weight in self.networks[1].parameters():
                    weight.view(-1)[0] = torch.inf
        step(self, *rest)

    monkeypatch.setattr(Training, "_step", breaking)
    found = {3: trained(splits, chosen, 3, **arguments(broken, 3))[0]["state"]}
    monkeypatch.setattr(Training, "_step", None)  # nothing is left to do
    with pytest.raises(ShearbenchError, match=r"seed 1 diverged.* epoch 1\."):
        trained(splits, chosen, 1, **arguments(broken, 1))
    found[2] = trained(splits, chosen, 2, **arguments(broken, 2))[0]["state"]
    for seed, state in found.items():
        for name, value in state.items():
            assert torch.equal(value, expected[seed][name]), (seed, name)


def test_each_stops_where_it_would_alone(splits, tmp_path, monkeypatch):
    """Each training stops by its own validation; the run ends with the last one."""
    chosen = variant(WHITENED, epochs=6, patience=2, validation_noise=[1e-3])
    losses = {3: iter([0.5, 0.6, 0.7]), 1: iter([0.5, 0.4, 0.3, 0.6, 0.7]), 2: iter([0.5, 0.4, 0.5, 0.6])}
    judged = []

    def evaluate(network, examples, sigma, level, limit=None):
        seed = order[id(network)]
        value = next(losses[seed]) if level == 0 else 1.0
        judged.append((seed, level))
        return torch.full((8, 2), value), torch.ones(8, 2), torch.arange(1.0, 9.0)

    training = make_training(splits, chosen, seeds=SEEDS)
    order = {id(network): seed for network, seed in zip(training.networks, SEEDS)}
    monkeypatch.setattr(objective, "evaluate", evaluate)
    line = loop.ProgressLine("tiny", 1)
    histories = training.run([Checkpoint(None, {})] * 3, line)
    assert [len(history) for history in histories] == [3, 5, 4]
    assert [training.best_epoch(k) for k in range(3)] == [1, 3, 2]
    assert training.step == 5 * training.epoch_steps


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("kind", ["whitened", "refined", "msb"])
def test_together_on_a_gpu(splits, kind):
    entry, options = KINDS[kind]
    chosen, device = variant(entry, **options), torch.device("cuda")
    together = make_training(splits, chosen, device, seeds=SEEDS)
    on_cpu = make_training(splits, chosen, CPU, seeds=SEEDS)
    assert together.objective.mean_square.shape == on_cpu.objective.mean_square.shape
    alone = make_training(splits, chosen, device, seeds=SEEDS[1:2])
    take_steps(together, 5)
    take_steps(alone, 5)
    torch.testing.assert_close(mean_square(together, 1), mean_square(alone, 0), rtol=5e-3, atol=0)


def test_a_seed_that_another_job_trains_is_waited_for_or_left_out(splits, tmp_path):
    """Another process has locked two seeds: one call trains without them, one waits for its own."""
    code = (
        "import sys; from shearbench.training.checkpoint import claimed\n"
        "from shearbench.training.checkpoint import Checkpoint\n"
        "one, two = (Checkpoint(path, {}) for path in sys.argv[1:])\n"
        "with claimed(one, {2: two}, 1) as taken: print(taken, flush=True); sys.stdin.read()"
    )
    paths, own = files(tmp_path), {seed: Checkpoint(path, {}) for seed, path in files(tmp_path).items()}
    command = [sys.executable, "-c", code, str(paths[1]), str(paths[2])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "[2]\n"
        with claimed(own[3], {1: own[1], 2: own[2], 4: Checkpoint(tmp_path / "seed4.pt", {})}, 1) as taken:
            assert taken == [4]
        waiting = threading.Thread(target=lambda: claimed(own[2], {}, 0).__enter__())
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        other.kill()
    waiting.join(20)
    assert not waiting.is_alive()
