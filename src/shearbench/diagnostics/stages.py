"""The stages of a network: modules whose output determines its answer, found without knowing the network.

A module is a stage if the network's output stays the same when another stamp is put in while the module's
output is kept: nothing then reaches the answer around it. A layer inside a skip connection or a branch is no
stage. The answer may also depend on the amplitude of the mean galaxy, from which a network is told the noise
level (`shearbench.tasks.shear.network`); then the amplitude belongs to the stage.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from shearbench.tasks.shear.network import ShearNetwork

ANSWER = "answer"
"""Name of the last stage: the shape g1, g2."""
_ROOT = "network"  # of a body, see `shearbench.networks.modules.bodies`
_SAME = 1e-9  # of the spread of the outputs; float64 rounding errors are far below


@dataclass(frozen=True)
class Stage:
    """A stage of a network.

    Attributes
    ----------
    layer : str
        Path of the layer in the body of the network, as in the table of layers; or `ANSWER`.
    kind : str
        Class of the layer.
    module : str
        Path of the module whose output is the stage: the layer, or the activation after it.
    shape : tuple of int
        Shape of its output for one stamp.
    beside : bool
        Whether the amplitude of the mean galaxy reaches the answer around the module.
    turned : bool
        Whether the orientation of the stamp does, by which a network turns its output back. It is one of
        eight and does not count as information, but the shape cannot be read without it.
    """

    layer: str
    kind: str
    module: str
    shape: tuple[int, ...]
    beside: bool
    turned: bool = False

    @property
    def numbers(self) -> int:
        """Number of values that the stage holds for one stamp, without the amplitude."""
        return torch.Size(self.shape).numel()


def exact_copy(network: ShearNetwork) -> ShearNetwork:
    """Return the network in float64 and evaluation mode, without a forward model after its answer."""
    exact = copy.deepcopy(network).double().eval()
    exact.refining = False
    return exact.requires_grad_(False)


@contextmanager
def hooked(modules: dict[str, nn.Module], hook: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Call a function with the name and the output of each module while the block runs.

    If it returns a tensor, this replaces the output.
    """
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: hook(name, output))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def activations(
    network: ShearNetwork, stages: Sequence[Stage], images: Tensor, psf: Tensor, sigma: Tensor
) -> list[Tensor]:
    """Return the numbers that each stage holds.

    Parameters
    ----------
    network : ShearNetwork
    stages : sequence of Stage
        Some of `find_stages`.
    images, psf, sigma
        As for `ShearNetwork.normalise`.

    Returns
    -------
    list of Tensor, each of shape (n, M)
        M is `Stage.numbers`, plus one if the amplitude belongs to the stage; it is the last number, in units
        of the median flux. If the network averages its output over the orientations of the stamp, all stages
        but the answer are those of the stamp as it is.
    """
    found: dict[str, Tensor] = {}
    modules = {
        stage.module: network.body.get_submodule(stage.module) for stage in stages if stage.module != ANSWER
    }

    def keep(name: str, output: Tensor) -> None:
        found.setdefault(name, output)

    with hooked(modules, keep):
        if any(stage.layer == ANSWER for stage in stages):
            found[ANSWER] = network(images, psf, sigma).shapes
        else:  # of one orientation
            network.body(network.normalise(images, psf, sigma))
    beside = any(stage.beside for stage in stages)
    amplitude = network.normalise(images, psf, sigma).amplitude / network.median_flux if beside else None
    return [
        flat if not stage.beside or amplitude is None else torch.cat([flat, amplitude[:, None]], 1)
        for stage, flat in ((stage, found[stage.module].flatten(1)) for stage in stages)
    ]


def find_stages(network: ShearNetwork, images: Tensor, psf: Tensor, sigma: Tensor) -> list[Stage]:
    """Return the stages of a network, in the order in which a stamp goes through them.

    An activation and the layer before it count as one stage.

    Parameters
    ----------
    network : ShearNetwork
    images, psf, sigma
        At least two different stamps, as for `ShearNetwork.normalise`.

    Returns
    -------
    list of Stage
        The last one is the answer, unless the layer before it holds the same two numbers.
    """
    test = _randomised(network)
    root = test.body.get_submodule(_ROOT)
    images, sigma = images.to(test.mean), sigma.to(test.mean)
    psf = psf.to(test.mean)
    other = images.roll(1, 0)
    amplitude = (test.normalise(one, psf, sigma).amplitude for one in (images, other))
    first, second = amplitude
    like = other + (first - second)[:, None, None] * test.mean  # other stamps of equal amplitude
    paths = {path: module for path, module in test.body.named_modules() if path}
    calls: dict[str, list[Tensor]] = {}
    order: list[str] = []

    def record(name: str, output: Any) -> None:
        calls.setdefault(name, []).append(output)
        order.append(name)

    with torch.no_grad(), hooked(paths, record):
        right_answer = test(images, psf, sigma).standard
    right = calls[_ROOT][0]
    spread = right.std()

    def fixed_by(path: str, stamps: Tensor) -> tuple[bool, bool]:
        """Return whether the output of the network is fixed, and whether the answer is."""
        answer: list[Tensor] = []
        keep = {path: paths[path], _ROOT: root}

        def put_back(name: str, output: Tensor) -> Tensor | None:
            if name == path:
                if name == _ROOT:
                    answer.append(calls[path][0])
                return calls[path][0]
            answer.append(output)
            return None

        with torch.no_grad(), hooked(keep, put_back):
            again = test(stamps, psf, sigma).standard
        return tuple(  # type: ignore[return-value]
            bool((one - other).abs().max() <= _SAME * spread)
            for one, other in ((answer[0], right), (again, right_answer))
        )

    found: list[Stage] = []
    seen: set[int] = set()
    for path in order:
        outputs = calls[path]
        one = outputs[0]
        if len(outputs) > 1 or not isinstance(one, Tensor) or one.ndim < 2 or len(one) != len(images):
            continue
        if id(one) in seen:  # a container returns the output of its last module
            continue
        seen.add(id(one))
        (alone, fixed), beside = fixed_by(path, other), False
        if not alone:
            (alone, fixed), beside = fixed_by(path, like), True
        if not alone:
            continue
        module = paths[path]
        stage = Stage(path, type(module).__name__, path, tuple(one.shape[1:]), beside, not fixed)
        same = bool(found) and found[-1].numbers == stage.numbers and found[-1].beside == beside
        plain = not module.state_dict()
        if same and _rearranged(one, calls[found[-1].module][0]):
            continue
        if same and plain:
            found[-1] = replace(found[-1], module=path, shape=stage.shape)
        else:
            found.append(stage)
    if not found or found[-1].numbers != 2 or network.symmetrise != "never":
        found.append(Stage(ANSWER, "shape", ANSWER, (2,), False))
    return found


def _rearranged(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.flatten(1).sort(1).values, other.flatten(1).sort(1).values)


def _randomised(network: ShearNetwork) -> ShearNetwork:
    """Return an exact copy with random weights, which has no dead units and depends on every layer."""
    test = exact_copy(network)
    test.symmetrise = "never"
    generator = torch.Generator().manual_seed(1)
    for weight in test.parameters():
        size = max(float(weight.std()) if weight.numel() > 1 else 0.0, weight[0].numel() ** -0.5)
        weight.normal_(0.0, size, generator=generator)
    return test
