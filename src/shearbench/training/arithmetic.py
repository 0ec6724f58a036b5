"""Precision and compilation of a network in training steps: the options `precision` and `compile`.

They apply to the network alone, and in training steps only. The scaling of its input, the rendering of
stamps, the forward model, the loss, the optimiser, validation and measurement use float32. Only with
`precision: float64` the weights are of float64 until the training has ended, and with them the optimiser's
state and the network's arithmetic in validation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from shearbench.errors import ConfigError
from shearbench.training.recipe import Precision, Recipe


@contextlib.contextmanager
def arithmetic(network: nn.Module, recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Inside the block, compute a module in training mode with the precision and compilation of a recipe.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode it is computed in float32, without compilation.
    recipe : Recipe
        Its ``precision`` and ``compile`` are used.
    device : torch.device
        The device of the network.

    Raises
    ------
    ConfigError
        In the first step, if torch.compile does not work on this machine.
    """
    plain = network.forward
    fast = _compiled(plain) if recipe.compile else plain

    def forward(*inputs: Tensor) -> Tensor:
        if not network.training:
            return plain(*inputs)
        half = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
        with multiplication(recipe.precision), half:
            return fast(*inputs).float()

    network.forward = forward
    try:
        yield
    finally:
        del network.forward


def in_float64(module: nn.Module) -> Callable[[], None]:
    """Convert a module to float64; it still takes and returns float32.

    Returns
    -------
    callable
        It undoes the conversion, and rounds the weights to float32.
    """
    module.double()
    hooks = (
        module.register_forward_pre_hook(lambda _, inputs: tuple(values.double() for values in inputs)),
        module.register_forward_hook(lambda _, inputs, output: output.float()),
    )

    def undo() -> None:
        for hook in hooks:
            hook.remove()
        module.float()

    return undo


@contextlib.contextmanager
def multiplication(precision: Precision) -> Iterator[None]:
    """Inside the block, let a GPU round the factors of products and convolutions to TF32 or forbid it."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32)
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _compiled(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # The compiler is told whether its code must be deterministic.
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
    fast = torch.compile(plain)

    def call(*inputs: Tensor) -> Tensor:
        try:
            return fast(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ConfigError(
                f"training.compile: torch.compile does not work here ({type(error).__name__}: "
                f"{str(error).strip().splitlines()[0]}). It needs a C++ compiler on a CPU and Triton on a "
                f"GPU; set training.compile to false if there is none"
            ) from error

    return call
