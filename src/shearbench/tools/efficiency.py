"""Speed of training steps, compared with a limit from the peak rates of the device.

The limit is that of the roofline model (Williams et al. 2009, doi:10.1145/1498765.1498785), summed over all
operations. An operation takes at least as long as its floating-point operations take at the rate of large
matrix products, and as long as reading its inputs and writing its outputs take at the rate of large copies.
Both rates are measured on the same device.

Steps are slower than the limit because operations have to be launched, and because small operations do not
use the whole device. Steps can be faster than the limit if operations are fused (``compile``), or if a CPU
finds the result of the last operation in its cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from shearbench.training.arithmetic import multiplication
from shearbench.training.recipe import Precision, Recipe

_SHORTEST = 0.2  # shortest duration of a timing [s]
_SIDE = {"cpu": 1024, "cuda": 8192}  # rows and columns of the matrices
_COPIED = {"cpu": 2**26, "cuda": 2**30}  # size of the copies [bytes], larger than any cache

# Operations that cost nothing: views that torch does not mark as views, and allocations.
_FREE = {
    torch.ops.aten._unsafe_view,
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_strided,
    torch.ops.aten.new_empty,
    torch.ops.aten.new_empty_strided,
}


class Rates(NamedTuple):
    """Peak rates of a device.

    Attributes
    ----------
    flops : float
        Floating-point operations per second in products of large matrices [1/s].
    bytes : float
        Bytes read and written per second by large copies [1/s].
    """

    flops: float
    bytes: float


def peak_rates(device: torch.device, precision: Precision = "float32") -> Rates:
    """Measure the peak rates of a device.

    Parameters
    ----------
    device : torch.device
    precision : {"float32", "tf32", "bfloat16"}
        Precision of the matrix products; see `Recipe`.

    Returns
    -------
    Rates
    """
    side, dtype = _SIDE[device.type], torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(_COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    with multiplication(precision):
        product = seconds_each(lambda: torch.mm(a, b), device)
    copy = seconds_each(lambda: target.copy_(source), device)
    return Rates(2 * side**3 / product, 2 * _COPIED[device.type] / copy)


def seconds_each(work: Callable[[], Any], device: torch.device) -> float:
    """Return the mean wall time of a call [s], after a first call that is not timed."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    work()
    calls = 1
    while True:
        start = clock()
        for _ in range(calls):
            work()
        spent = clock() - start
        if spent >= _SHORTEST:
            return spent / calls
        calls *= 2


class Cost(TorchDispatchMode):
    """Count the operations inside the block.

    Attributes
    ----------
    operations : list of (float, float)
        Floating-point operations of matrix products and convolutions, and bytes read and written, of each
        operation except views and allocations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[float, float]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the operation and note its cost."""
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if not function.is_view and function._overloadpacket not in _FREE:
            counted = flop_registry.get(function._overloadpacket)
            flops = float(counted(*args, **kwargs, out_val=result)) if counted else 0.0
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.operations.append((flops, float(sum(_bytes(tensor) for tensor in tensors))))
        return result

    @property
    def flops(self) -> float:
        """Floating-point operations of all operations together."""
        return sum(flops for flops, _ in self.operations)

    def limit(self, rates: Rates) -> float:
        """Return the shortest time that all operations together can take on a device of these rates [s]."""
        return sum(max(flops / rates.flops, size / rates.bytes) for flops, size in self.operations)


def _bytes(tensor: Tensor) -> int:
    """Return the memory that a tensor's elements occupy [bytes]; elements that share memory count once."""
    apart = 1
    for size, stride in zip(tensor.shape, tensor.stride()):
        apart *= size if stride else 1
    return apart * tensor.element_size() if tensor.numel() else 0


def step_efficiency(step: Callable[[], Any], recipe: Recipe, device: torch.device) -> dict[str, float]:
    """Measure training steps against the limit of the device.

    Parameters
    ----------
    step : callable
        It takes one training step. The first two calls are not measured.
    recipe : Recipe
        Options of the training.
    device : torch.device

    Returns
    -------
    dict
        ``stamps_per_second`` [1/s]; ``limit``, the same rate at the limit [1/s]; ``flops_per_stamp``;
        ``peak_flops`` and ``peak_bytes``, the measured peak rates [1/s].
    """
    step()
    step()
    with Cost() as cost:
        step()
    rates = peak_rates(device, recipe.precision)
    return {
        "stamps_per_second": recipe.batch_size / seconds_each(step, device),
        "limit": recipe.batch_size / cost.limit(rates),
        "flops_per_stamp": cost.flops / recipe.batch_size,
        "peak_flops": rates.flops,
        "peak_bytes": rates.bytes,
    }
