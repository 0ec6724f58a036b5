"""The processes of one training: each takes its share of every batch, and all hold the same weights."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Workers:
    """All the processes of a training, as one of them sees them; by default it is alone.

    Methods that add or agree are called by all, in the same order.

    Parameters
    ----------
    rank : int
        Which of them this is.
    size : int
        How many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._asked: tuple[dist.Work, Tensor] | None = None

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and reports."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """The own part of what is in a batch: every `size`-th."""
        return slice(self.rank, None, self.size)

    def own(self, start: int, stop: int) -> int:
        """Return how many of the places from `start` to `stop` of a batch are in the own share."""
        return len(range(self.rank, stop, self.size)) - len(range(self.rank, start, self.size))

    def add(self, *tensors: Tensor) -> None:
        """Replace tensors of one type by their sums over all processes: the same bits in each of them."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(one) for part, one in zip(parts, tensors)])

    def add_gradients(self, weights: Sequence[Tensor]) -> None:
        """Replace the gradients of all weights that have one, the same in all processes, by their sums."""
        self.add(*(weight.grad for weight in weights if weight.grad is not None))

    @torch.no_grad()
    def average_statistics(self, network: nn.Module) -> None:
        """Give all processes the mean of their running statistics, where layers normalise by the batch."""
        for layer in network.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                running = (layer.running_mean, layer.running_var)
                found = [statistic for statistic in running if statistic is not None]
                self.add(*found)
                torch._foreach_div_(found, self.size)

    def take_from_first(self, network: nn.Module) -> None:
        """Give all processes the weights and constants of the first."""
        if self.size > 1:
            for value in network.state_dict().values():
                if value.numel():
                    dist.broadcast(value, 0)

    def any(self, flag: bool) -> bool:
        """Return whether a process raised its flag when all were asked last: nobody waits for the answer.

        Alone, the flag itself.
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
        """Wait until all processes are here."""
        if self.size > 1:
            # Not by `any`, which would swallow the answer to what was asked last.
            dist.all_reduce(torch.zeros(1))

    def check_same(self, number: int, what: str) -> None:
        """Raise an error unless all processes have the same number.

        Raises
        ------
        RuntimeError
            Some have another.
        """
        numbers = torch.zeros(self.size, dtype=torch.int64)
        numbers[self.rank] = number
        self.add(numbers)
        if (numbers != number).any():
            raise RuntimeError(f"the processes of a training do not have the same {what}: {numbers.tolist()}")


@contextlib.contextmanager
def joined() -> Iterator[tuple[Workers, torch.device]]:
    """Join the processes that torchrun started beside this one.

    Yields
    ------
    workers : Workers
    device : torch.device
        Of the GPUs that are visible, the one for this process; the CPU where there are none.
    """
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield Workers(dist.get_rank(), dist.get_world_size()), device
    # After an error the others may be gone, and there is nobody to take leave of.
    dist.destroy_process_group()
