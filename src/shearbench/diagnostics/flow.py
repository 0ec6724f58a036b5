"""The flow of gradients through a network, before, during and after its training.

Before and after the training, the loss is the mean square of the residuals of all targets, in units of their
spread over the population, at all noise levels that are asked for: it is the same for all networks, whatever
loss they were trained with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn

from shearbench.data.catalogs import PARAMETER_COLUMNS
from shearbench.data.noise import unit_noise
from shearbench.diagnostics.batches import batch_statistics
from shearbench.diagnostics.galaxies import Split
from shearbench.diagnostics.stages import hooked
from shearbench.networks import architecture_kinds
from shearbench.tasks.shear.model_file import TrainedNetwork
from shearbench.tasks.shear.network import ShearNetwork
from shearbench.training.loop import GRADIENT

FLOW_COLUMNS = [
    "population",
    "variant",
    "seed",
    "when",
    "place",
    "layer",
    "kind",
    "parameters",
    "weights",
    "gradient",
    "stretch_largest",
    "stretch_mean",
    "units",
    "zero",
    "flat",
    "dead",
]
GRADIENT_COLUMNS = ["population", "variant", "seed", "epoch", "views", "place", "layer", "gradient"]
STRETCHES = ("stretch_largest", "stretch_mean")
CURVATURE_COLUMNS = ["population", "variant", "seed", "when", "loss", "rank", "eigenvalue"]
TIMES = ("start", "end")
"""Before and after the training."""

T = TypeVar("T")

_FLAT = 0.01  # slope of an activation below which it is flat
_POWER_STEPS = 10
_JACOBIAN_STAMPS = 4
_EIGENVALUES, _LANCZOS, _TOLERANCE = 3, 16, 0.02


@dataclass(frozen=True)
class Batch:
    """Noisy stamps with their true targets.

    Attributes
    ----------
    images : Tensor of float32, shape (n, ny, nx)
    psf : Tensor of float32, shape (ny, nx) or (n, ny, nx)
    sigma : Tensor of float32, shape (n,)
    targets : Tensor of float32, shape (n, T)
    """

    images: Tensor
    psf: Tensor
    sigma: Tensor
    targets: Tensor

    @classmethod
    def of(
        cls, split: Split, count: int, sigmas: Sequence[float], seed: int, targets: Sequence[str]
    ) -> Batch:
        """Return the first galaxies of a split, in turn at each of the noise levels."""
        stamps, rows = split.stamps, split.catalog.iloc[:count]
        noise = unit_noise(seed, stamps.noise_id[: len(rows)], stamps.shape)
        sigma = np.resize(np.asarray(sigmas, np.float32), len(rows))
        images, psf = stamps.noiseless(0, len(rows))
        truth = rows[[PARAMETER_COLUMNS[name] for name in targets]].to_numpy(np.float32, copy=True)
        noisy = images + sigma[:, None, None] * noise
        return cls(*(torch.from_numpy(part) for part in (noisy, psf, sigma, truth)))

    def loss(self, network: ShearNetwork) -> Tensor:
        """Return the mean square of the residuals over the spread of the targets."""
        wanted = network.standardise(self.targets, self.images, self.psf, self.sigma)
        return (network(self.images, self.psf, self.sigma).standard - wanted).square().mean()


def before_training(model: TrainedNetwork) -> ShearNetwork:
    """Return the network of a model file with the weights that its training began with.

    They follow from the seed of the training. The scaling of inputs and outputs, which is not trained, is
    that of the model.
    """
    about = model.about
    architecture = architecture_kinds()[about["architecture"]](**about["options"])
    with torch.random.fork_rng([]):
        torch.manual_seed(about["seed"])
        network = ShearNetwork(
            architecture, tuple(about["shape"]), about["pixel_scale"], about["per_galaxy_psf"]
        )
    fitted = model.network.state_dict()
    own = network.state_dict()
    learned = tuple(f"{name}." for name in network.learned)
    scaling = {name: value for name, value in fitted.items() if not name.startswith(learned)}
    for name in ("error_sigma", "error_snr", "error"):
        setattr(network, name, torch.zeros_like(fitted[name]))
    network.load_state_dict({**own, **scaling})
    network.refining = model.network.refining
    return network.eval()


def table_of_layers(model: TrainedNetwork, batch: Batch, jacobians: bool = True) -> pd.DataFrame:
    """Measure gradients, Jacobians and responses of each layer before and after the training.

    Batch normalisation uses the statistics of the batch for the gradients, as in a training step.

    Parameters
    ----------
    model : TrainedNetwork
    batch : Batch
    jacobians : bool
        Whether to compute the columns `STRETCHES`, which take most of the time; otherwise they are NaN.

    Returns
    -------
    pandas.DataFrame
        A row for each layer and time (``start``, ``end``), with the columns `FLOW_COLUMNS`:

        - ``place``: order of the layers; ``layer``, ``kind``: path and class of the module;
        - ``parameters``: number of its weights; ``weights``: their norm; ``gradient``: norm of the gradient
          of the loss by them;
        - ``stretch_largest``, ``stretch_mean``: largest singular value of the layer's Jacobian (its output by
          its input) and the rms over as many as the smaller side has, mean over a few stamps;
        - for activations, ``units``: number of channels; ``zero``: share of responses that are exactly zero;
          ``flat``: share of responses with a slope below 0.01, which pass hardly any gradient, of saturated
          or silent units; ``dead``: share of units that are flat at all positions of all stamps.
    """
    about = {name: model.about[name] for name in ("population", "variant", "seed")}
    rows = [
        {**about, "when": when, **row}
        for when, network in _at_times(model)
        for row in layers(network, batch, jacobians)
    ]
    return pd.DataFrame(rows, columns=FLOW_COLUMNS)


def table_of_curvature(model: TrainedNetwork, batch: Batch) -> pd.DataFrame:
    """Measure the curvature of the loss before and after the training.

    Parameters
    ----------
    model : TrainedNetwork
    batch : Batch

    Returns
    -------
    pandas.DataFrame
        A row for each time and ``rank``: the largest eigenvalues of the Hessian matrix of the loss, and the
        ``loss``. Columns: `CURVATURE_COLUMNS`.
    """
    about = {name: model.about[name] for name in ("population", "variant", "seed")}
    rows = []
    for when, network in _at_times(model):
        loss, values = largest_curvatures(network, batch)
        rows += [
            {**about, "when": when, "loss": loss, "rank": rank, "eigenvalue": value}
            for rank, value in enumerate(values, 1)
        ]
    return pd.DataFrame(rows, columns=CURVATURE_COLUMNS)


def table_of_gradients(model: TrainedNetwork, history: pd.DataFrame) -> pd.DataFrame:
    """Return the norm of the gradient by the weights of each layer in the course of the training.

    Parameters
    ----------
    model : TrainedNetwork
    history : pandas.DataFrame
        The history of its training, see `shearbench.training.train.train`.

    Returns
    -------
    pandas.DataFrame
        A row for each epoch and layer, with the columns `GRADIENT_COLUMNS`. ``gradient`` is that of the loss
        that the network was trained with, in the last step of the epoch; ``place`` is the order in which the
        network lists its layers.
    """
    about = {name: model.about[name] for name in ("population", "variant", "seed")}
    columns = [name for name in map(str, history) if name.startswith(GRADIENT)]
    rows = [
        {
            **about,
            "epoch": epoch["epoch"],
            "views": epoch["views"],
            "place": place,
            "layer": name.removeprefix(GRADIENT).removeprefix("body."),
            "gradient": epoch[name],
        }
        for epoch in history.to_dict("records")
        for place, name in enumerate(columns)
    ]
    return pd.DataFrame(rows, columns=GRADIENT_COLUMNS)


def _at_times(model: TrainedNetwork) -> list[tuple[str, ShearNetwork]]:
    """Return the network at each of `TIMES`, as a copy."""
    return [("start", _plain(before_training(model))), ("end", _plain(model.network))]


def _plain(network: ShearNetwork) -> ShearNetwork:
    """Return a copy that calls each layer once, without a forward model after it."""
    found = copy.deepcopy(network).eval()
    found.refining, found.symmetrise = False, "never"
    return found


class Call(NamedTuple):
    """The first call of a layer: its path in the body of the network, itself, its input and its output."""

    path: str
    module: nn.Module
    given: Tensor
    made: Tensor


def recorded(network: ShearNetwork, run: Callable[[], T]) -> tuple[T, list[Call]]:
    """Return the result of a function that applies a network, and its layers in the order of their calls."""
    root = network.body.get_submodule("network")
    leaves = {
        f"network.{path}": module for path, module in root.named_modules() if not any(module.children())
    }
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(path: str, output: Tensor) -> None:
        outputs.setdefault(path, output)

    handles = [
        module.register_forward_pre_hook(lambda _, given, path=path: inputs.setdefault(path, given[0]))
        for path, module in leaves.items()
    ]
    try:
        with hooked(leaves, keep):
            result = run()
    finally:
        for handle in handles:
            handle.remove()
    return result, [Call(path, leaves[path], given, outputs[path]) for path, given in inputs.items()]


def layers(network: ShearNetwork, batch: Batch, jacobians: bool = True) -> list[dict[str, Any]]:
    """Return the rows of `table_of_layers` for one network, without its names."""
    with batch_statistics(network):
        loss, calls = recorded(network, lambda: batch.loss(network))
    weights = dict(network.body.named_parameters())
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    slopes = dict(zip(weights, gradients, strict=True))
    found = []
    for place, (path, module, given, made) in enumerate(calls):
        given, made = given.detach(), made.detach()
        row: dict[str, Any] = {"place": place, "layer": path, "kind": type(module).__name__}
        own = [f"{path}.{name}" for name, _ in module.named_parameters()]
        row["parameters"] = sum(weights[name].numel() for name in own)
        if own:
            row["weights"] = _norm([weights[name] for name in own])
            row["gradient"] = _norm([slopes[name] for name in own])
        if elementwise(module, given, made):
            row |= responses(module, given)
        if jacobians and given.is_floating_point() and given.ndim > 1:
            row["stretch_largest"], row["stretch_mean"] = stretches(module, given[:_JACOBIAN_STAMPS])
        found.append(row)
    return found


def _norm(parts: Sequence[Tensor | None]) -> float:
    return float(sum(float(part.detach().square().sum()) for part in parts if part is not None) ** 0.5)


def elementwise(module: nn.Module, given: Tensor, made: Tensor) -> bool:
    """Return whether a module is an activation: a non-linear function of each number by itself."""
    if made.shape != given.shape or made.numel() < 2:
        return False
    with torch.no_grad():
        one = given[:1].clone()
        flat = one.flatten(1)
        flat[:, flat.shape[1] // 2] += 1
        changed = (module(flat.view_as(one)) - module(given[:1])).flatten().nonzero()
        # A layer that mixes places changes more than one output.
        if len(changed) > 1:
            return False
        # Both are zero for a linear layer; the first also for tanh, the second also for ReLU. They are taken
        # at values of order one, because tanh is nearly linear for small ones.
        one = 2 * given[:1] / given[:1].abs().max().clamp_min(torch.finfo(given.dtype).tiny)
        still, found = module(0 * one), module(one)
        bends = (module(-one) + found - 2 * still, module(2 * one) - 2 * found + still)
        return any(bool(bend.abs().max() > 1e-5 * found.abs().max()) for bend in bends)


def responses(module: nn.Module, given: Tensor) -> dict[str, Any]:
    """Return the shares of zero and flat responses and of dead units of an activation.

    Parameters
    ----------
    module : torch.nn.Module
    given : Tensor, shape (n, units, ...) or (n, tokens, units)
        Its input.
    """
    given = given.detach().requires_grad_()
    made = module(given)
    (slope,) = torch.autograd.grad(made.sum(), given)
    units = -1 if given.ndim == 3 else 1
    flat = (slope.abs() < _FLAT).movedim(units, 0).flatten(1)
    return {
        "units": given.shape[units],
        "zero": float((made == 0).float().mean()),
        "flat": float(flat.float().mean()),
        "dead": float(flat.all(1).float().mean()),
    }


def stretches(module: Callable[[Tensor], Tensor], given: Tensor) -> tuple[float, float]:
    """Return the largest and the rms singular value of a module's Jacobian, mean over some inputs.

    Parameters
    ----------
    module : callable
    given : Tensor, shape (n, ...)
    """
    given = given.detach().requires_grad_()
    made = module(given)
    carrier = torch.zeros_like(made, requires_grad=True)
    (back,) = torch.autograd.grad(made, given, carrier, create_graph=True, allow_unused=True)
    if back is None or not back.requires_grad:
        return 0.0, 0.0
    generator = torch.Generator().manual_seed(1)

    def push(direction: Tensor) -> Tensor:
        return torch.autograd.grad(back, carrier, direction, retain_graph=True)[0]

    def norms(of: Tensor) -> Tensor:
        return of.flatten(1).norm(dim=1)

    def shaped(norm: Tensor, like: Tensor) -> Tensor:
        return norm.view(-1, *[1] * (like.ndim - 1))

    tiny = torch.finfo(given.dtype).tiny
    direction = torch.randn(given.shape, generator=generator).to(given)
    total = norms(push(direction)).square()  # its expectation is the sum of all squared singular values
    largest = torch.zeros(len(given))
    for _ in range(_POWER_STEPS):
        direction = direction / shaped(norms(direction), direction).clamp_min(tiny)
        image = push(direction)
        largest = norms(image)
        direction = torch.autograd.grad(made, given, image, retain_graph=True)[0]
    smaller = min(given[0].numel(), made[0].numel())
    return float(largest.mean()), float((total / smaller).mean().sqrt())


def largest_curvatures(network: ShearNetwork, batch: Batch) -> tuple[float, list[float]]:
    """Return the loss and the largest eigenvalues of its Hessian matrix by the weights, in descending order.

    They are computed by the Lanczos method (ARPACK) from products of the matrix with vectors, to 2 per cent.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    with batch_statistics(network):
        loss = batch.loss(network)
    value = float(loss.detach())
    slopes = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
    used = [k for k, slope in enumerate(slopes) if slope is not None and slope.requires_grad]
    weights, parts = [weights[k] for k in used], [slopes[k] for k in used]
    sizes = [weight.numel() for weight in weights]
    total = sum(sizes)

    def product(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        given = torch.from_numpy(np.asarray(vector, np.float32).ravel()).split(sizes)
        shaped = [part.view_as(weight) for part, weight in zip(given, weights, strict=True)]
        found = torch.autograd.grad(parts, weights, shaped, retain_graph=True, allow_unused=True)
        return np.concatenate(
            [
                (torch.zeros_like(weight) if part is None else part).detach().flatten().double().numpy()
                for part, weight in zip(found, weights, strict=True)
            ]
        )

    count = min(_EIGENVALUES, total - 2)
    if count < 1:
        return value, []
    operator = LinearOperator((total, total), matvec=product, dtype=np.float64)
    start = np.random.default_rng(1).normal(size=total)
    try:
        values = eigsh(
            operator,
            count,
            which="LA",
            v0=start,
            ncv=min(_LANCZOS, total),
            tol=_TOLERANCE,
            maxiter=4,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence as stopped:  # some of them may have converged
        values = stopped.eigenvalues
    return value, sorted(map(float, values), reverse=True)
