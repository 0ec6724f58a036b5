"""How much the answer about a galaxy depends on the other galaxies of its batch.

Batch normalisation uses the mean and the variance of the batch in training, and their running averages in a
measurement. Here networks are judged with both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from shearbench.bounds.cramer_rao import marginal_variance
from shearbench.bounds.fisher import fisher
from shearbench.diagnostics.galaxies import Split
from shearbench.tasks.shear.model_file import TrainedNetwork

BATCH_COLUMNS = [
    "variant",
    "seed",
    "noise",
    "statistics",
    "stamps",
    "galaxies",
    "rmse_over_crb",
    "change_over_crb",
]
RUNNING, MIXED, EQUAL = "running", "mixed", "equal"
"""Running averages; statistics of batches of mixed brightness, and of batches of about equal brightness."""


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch normalisation use the statistics of the batch while the block runs, as in a training step.

    The network is left as it was: no running average changes.
    """
    layers = [m for m in network.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))]
    kept = [(m.training, m.momentum, m.num_batches_tracked) for m in layers]
    for layer in layers:
        layer.train()
        layer.momentum = 0.0
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked = layer.num_batches_tracked.clone()
    try:
        yield
    finally:
        for layer, (training, momentum, count) in zip(layers, kept, strict=True):
            layer.train(training)
            layer.momentum, layer.num_batches_tracked = momentum, count


@dataclass(frozen=True)
class Judged:
    """Noisy stamps in an order by brightness, with true shapes and bounds.

    Attributes
    ----------
    images : dict of float to Tensor of float32, shape (n, ny, nx)
        By the noise level.
    psf : Tensor of float32, shape (ny, nx) or (n, ny, nx)
    truth : Tensor of float64, shape (n, 2)
        g1, g2.
    variance : Tensor of float64, shape (n, 2)
        Squares of the Cramer-Rao bounds for a noise of 1; NaN where there is none.
    by_brightness : Tensor of int64, shape (n,)
        The galaxies from the faintest to the brightest.
    """

    images: dict[float, Tensor]
    psf: Tensor
    truth: Tensor
    variance: Tensor
    by_brightness: Tensor

    @classmethod
    def of(cls, split: Split, count: int, sigmas: Sequence[float], seed: int) -> Judged:
        """Return the first galaxies of a split, with the noise that all estimators are given."""
        stamps, rows = split.stamps, split.catalog.iloc[:count]
        psf = stamps.noiseless(0, len(rows))[1]
        matrices, names = fisher(rows, stamps.pixel_scale, stamps.shape, psf_images=psf)
        at = [names.index(name) for name in ("g1", "g2")]
        images = {
            sigma: torch.from_numpy(
                np.concatenate([one.images for one in stamps.batches(sigma, seed, 250, 0, len(rows))])
            )
            for sigma in sigmas
        }
        return cls(
            images,
            torch.from_numpy(psf),
            torch.from_numpy(rows[["g1", "g2"]].to_numpy(np.float64, copy=True)),
            torch.from_numpy(marginal_variance(matrices)[:, at]),
            torch.from_numpy(np.argsort(rows["flux"].to_numpy(), kind="stable")),
        )


@torch.no_grad()
def table_of_batches(model: TrainedNetwork, judged: Judged) -> pd.DataFrame:
    """Measure the same galaxies with running averages, and with the statistics of batches.

    Parameters
    ----------
    model : TrainedNetwork
    judged : Judged

    Returns
    -------
    pandas.DataFrame
        A row for each noise level and ``statistics``: ``running``; ``mixed``, those of batches in the order
        of the catalog; ``equal``, those of batches of galaxies that follow one another in brightness. The
        batches are as large as in the training (``stamps``); ``galaxies`` are those that fill whole batches
        and have a bound. ``rmse_over_crb``: RMSE of the shape over the rms Cramer-Rao bound;
        ``change_over_crb``: rms difference to the answer with running averages, over the same. Columns:
        `BATCH_COLUMNS`.
    """
    count = len(judged.truth)
    size = min(int(model.about["training"]["batch_size"]), count)
    # The same galaxies in each row: those that fill whole batches of the first order.
    taken = torch.arange(count // size * size)
    sorted_by_brightness = judged.by_brightness[torch.isin(judged.by_brightness, taken)]
    known = judged.variance[taken].isfinite().all(1)
    rows = []
    for sigma, images in judged.images.items():

        def answers(order: Tensor) -> Tensor:
            found = torch.empty(len(order), 2, dtype=torch.float64)
            for part in order.split(size):
                psf = judged.psf if judged.psf.ndim == 2 else judged.psf[part]
                found[part] = model.network(images[part], psf, torch.tensor(sigma)).shapes.double()  # noqa: B023
            return found

        found = {RUNNING: answers(taken)}
        with batch_statistics(model.network):
            found |= {MIXED: answers(taken), EQUAL: answers(sorted_by_brightness)}
        least = sigma**2 * judged.variance[taken][known].mean()
        for name, answer in found.items():
            away = {"rmse": answer - judged.truth[taken], "change": answer - found[RUNNING]}
            rms = {
                f"{key}_over_crb": float((one[known].square().mean() / least).sqrt())
                for key, one in away.items()
            }
            rows.append(
                {
                    **{key: model.about[key] for key in ("variant", "seed")},
                    "noise": sigma,
                    "statistics": name,
                    "stamps": size,
                    "galaxies": int(known.sum()),
                    **rms,
                }
            )
    return pd.DataFrame(rows, columns=BATCH_COLUMNS)
