"""A second task, trained by the code that trains the first: the flux of noisy squares, by one dense layer."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from shearbench.jobs.torch_settings import seeded
from shearbench.training import checkpoint, loop
from shearbench.training.recipe import Recipe
from shearbench.training.task import Job, TrainedModule
from shearbench.training.train import train

pytestmark = pytest.mark.trains


class FluxNetwork(TrainedModule):
    learned = ("dense",)

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(36, 1)

    def forward(self, images):
        return self.dense(images.flatten(1))[:, 0]


class FluxObjective:
    comparable_after, epoch_items = 0, 128

    def __init__(self, networks, seeds, recipe, workers):
        self.networks, self.seeds, self.recipe, self.workers = networks, seeds, recipe, workers
        self.running = torch.ones(len(networks))

    def start_epoch(self, epoch):
        pass

    def draw(self, part, step, generator):
        images, flux = [], []
        for seed in self.seeds:
            seeded(generator, seed, step)
            truth = torch.rand(part.stop - part.start, generator=generator)
            noise = torch.randn(len(truth), 6, 6, generator=generator)
            images.append((truth[:, None, None] + 0.1 * noise)[self.workers.share])
            flux.append(truth[self.workers.share])
        return torch.cat(images), torch.cat(flux)

    def loss(self, network, batch, step):
        images, flux = batch
        square = (network(images) - flux).square().unflatten(0, (len(self.networks), -1))
        mean = square.sum(1) / self.recipe.batch_size
        total = mean.detach().clone()
        self.workers.add(total)
        self.running += 0.1 * (total - self.running)
        return mean.sum()

    def train_loss(self, k):
        return float(self.running[k].sqrt())

    def validate(self, network):
        truth = torch.linspace(0, 1, 50)
        with torch.no_grad():
            found = network.eval()(truth[:, None, None].expand(-1, 6, 6))
        return {"validation_loss": float((found - truth).square().mean().sqrt())}

    def state(self, k):
        return {"running": self.running[k].clone()}

    def restore(self, states):
        self.running = torch.stack([state["running"] for state in states])


@dataclass(frozen=True)
class FluxTask:
    name: ClassVar = "flux"
    recipe: ClassVar = Recipe(epochs=6, batch_size=16, optimiser="adamw", learning_rate=0.01)

    @property
    def identity(self):
        return {"recipe": self.recipe.model_dump(mode="json")}

    def drops_out(self):
        return False

    def start(self, seeds, device, workers):
        networks = []
        for seed in seeds:
            torch.manual_seed(seed)
            networks.append(FluxNetwork().to(device))
        return FluxObjective(networks, seeds, self.recipe, workers)

    def content(self, objective, result):
        return {"epoch": result.epoch, "state": objective.networks[0].state_dict()}


def test_it_trains_is_killed_resumes_and_is_loaded(tmp_path):
    whole, history = train(FluxTask(), Job(seed=1))
    assert {"train_loss", "gradient_norm"} < set(history)
    assert list(history)[-1] == "validation_loss"
    # A convex problem: the mean flux as the answer to all gives 0.29, and any rounding ends near 0.02.
    assert history["validation_loss"].iloc[-1] < 0.1
    state, model = tmp_path / "state.pt", tmp_path / "model.pt"
    process = subprocess.Popen([sys.executable, __file__, tmp_path])
    while not (state.exists() and torch.load(state, weights_only=True)["state"]["step"] >= 16):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not model.exists()
    subprocess.run([sys.executable, __file__, tmp_path], check=True, env={**os.environ, "FAST": "1"})
    loaded = checkpoint.load(model, "train")
    assert loaded["epoch"] == whole["epoch"]
    network = FluxNetwork()
    network.load_state_dict(loaded["state"])
    assert all(torch.equal(value, whole["state"][name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "job",
    [
        pytest.param({"together": 2}, id="together"),
        # Slow, because the other two tasks are trained by two processes in each run of the tests.
        pytest.param({"gpus": 2}, id="two processes", marks=pytest.mark.slow),
    ],
)
def test_it_trains_together_and_in_several_processes(tmp_path, monkeypatch, job):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    whole, _ = train(FluxTask(), Job(seed=1))
    others = {2: tmp_path / "2.pt"}
    found, _ = train(FluxTask(), Job(seed=1, checkpoint=tmp_path / "1.pt", others=others, **job))
    assert others[2].exists() == ("together" in job)
    for name, value in whole["state"].items():
        torch.testing.assert_close(found["state"][name], value, rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    if "FAST" not in os.environ:
        take_step = loop.Training._step

        def slow_step(self, *arguments):
            take_step(self, *arguments)
            time.sleep(0.05)

        loop.Training._step = slow_step
    folder = Path(sys.argv[1])
    content, _ = train(FluxTask(), Job(seed=1, checkpoint=folder / "state.pt"))
    checkpoint.save(folder / "model.pt", content)
    assert "torch._dynamo" not in sys.modules, "torch's compiler takes two seconds to import"
