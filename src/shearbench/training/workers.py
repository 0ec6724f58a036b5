"""The processes of one training: each computes its share of every batch, and all have the same weights."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Workers:
    """The processes of a training, as seen by one of them; by default there is only one.

    All processes must call the methods that exchange data (`add`, `add_gradients`, `average_statistics`,
    `take_from_first`, `any`, `wait` and `check_same`), in the same order.

    Parameters
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._asked: tuple[dist.Work, Tensor] | None = None

    @property
    def first(self) -> bool:
        """Whether this is the first process, which writes the files and the progress."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """The items of a batch that this process computes: every `size`-th, from the `rank`-th on."""
        return slice(self.rank, None, self.size)

    def own(self, start: int, stop: int) -> int:
        """Return how many of the items from `start` to `stop` of a batch this process computes."""
        return len(range(self.rank, stop, self.size)) - len(range(self.rank, start, self.size))

    def add(self, *tensors: Tensor) -> None:
        """Replace tensors of one type by their sums over all processes, equal bit for bit in all of them."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(one) for part, one in zip(parts, tensors)])

    def add_gradients(self, weights: Sequence[Tensor]) -> None:
        """Replace the gradients of the weights by their sums over all processes.

        Weights without a gradient are left out; they must be the same ones in all processes.
        """
        self.add(*(weight.grad for weight in weights if weight.grad is not None))

    @torch.no_grad()
    def average_statistics(self, network: nn.Module) -> None:
        """Replace the running statistics of batch normalisation by their means over all processes."""
        for layer in network.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                running = (layer.running_mean, layer.running_var)
                found = [statistic for statistic in running if statistic is not None]
                self.add(*found)
                torch._foreach_div_(found, self.size)

    def take_from_first(self, network: nn.Module) -> None:
        """Replace the weights and buffers of a network by those of the first process."""
        if self.size > 1:
            for value in network.state_dict().values():
                if value.numel():
                    dist.broadcast(value, 0)

    def any(self, flag: bool) -> bool:
        """Return whether the flag of any process was true at the call before this one.

        The answer is that of the last call so that no process has to wait for the others. If there is only
        one process, return its flag.
        """
        if self.size == 1:
            return flag
        before = self._asked
        asked = torch.tensor(int(flag))  # on the CPU, so that no GPU is waited for
        self._asked = (dist.all_reduce(asked, async_op=True), asked)
        if before is None:
            return False
        before[0].wait()
        return bool(before[1] > 0)

    def wait(self) -> None:
        """Wait until all processes have called this method."""
        if self.size > 1:
            # `any` cannot be used here: it would use up the answer to the last flag.
            dist.all_reduce(torch.zeros(1))

    def check_same(self, number: int, what: str) -> None:
        """Raise an error unless the number is the same in all processes.

        Parameters
        ----------
        number : int
        what : str
            Name of the number, for the error.

        Raises
        ------
        RuntimeError
            The number of some process differs.
        """
        numbers = torch.zeros(self.size, dtype=torch.int64)
        numbers[self.rank] = number
        self.add(numbers)
        if (numbers != number).any():
            raise RuntimeError(f"the processes of a training do not have the same {what}: {numbers.tolist()}")


@contextlib.contextmanager
def joined() -> Iterator[tuple[Workers, torch.device]]:
    """Connect this process to the others that torchrun started, inside the block.

    Yields
    ------
    workers : Workers
    device : torch.device
        The GPU of this process, or the CPU if no GPU is visible.
    """
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield Workers(dist.get_rank(), dist.get_world_size()), device
    # Not after an error: the other processes may have ended, and this call would wait for them.
    dist.destroy_process_group()
