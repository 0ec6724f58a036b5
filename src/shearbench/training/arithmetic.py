"""In which arithmetic a network's training steps are computed: precision and compilation, both options.

Only the network itself computes otherwise than in float32, and only in training steps: the scaling of its
input, the rendering of stamps, the forward model, the loss and the optimiser do not, nor do validation and
measurement.
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
    """Have a module compute its training steps as the recipe says, inside the block.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode it computes as ever.
    recipe : Recipe
        Its ``precision`` and ``compile``.
    device : torch.device

    Raises
    ------
    ConfigError
        In the first step: what the network is to be compiled with is not there, or cannot.
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


@contextlib.contextmanager
def multiplication(precision: Precision) -> Iterator[None]:
    """Let a GPU round the factors of matrix products and convolutions to TF32 inside the block, if wanted."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32)
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _compiled(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    fast = torch.compile(plain)

    def call(*inputs: Tensor) -> Tensor:
        try:
            return fast(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ConfigError(
                f"training.compile: torch.compile does not work here ({type(error).__name__}: "
                f"{str(error).strip().splitlines()[0]}). It needs a C++ compiler on a CPU and Triton on a "
                f"GPU; use false where there is none"
            ) from error

    return call
