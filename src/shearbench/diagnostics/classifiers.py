"""Images of the inside of a classifier: learned filters, feature maps and class activation maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shearbench.data.labelled_images import LabelledImages
from shearbench.diagnostics.stages import hooked
from shearbench.jobs.torch_settings import torch_settings
from shearbench.networks.terms import LEVELS
from shearbench.tasks.morphology.train import Classifier, on_device

_FILTERS, _CHANNELS = 6, 2
_LOCAL = 0.1  # derivatives below this fraction of the largest are not shown at the edges


def look_inside(model: Classifier, images: LabelledImages, threads: int = 1) -> dict[str, NDArray[Any]]:
    """Return images of what a classifier has learned.

    Parameters
    ----------
    model : Classifier
    images : LabelledImages
        The first image of each class is looked at.
    threads : int
        Number of CPU threads.

    Returns
    -------
    dict of str to ndarray
        ``rows`` [k], the numbers of the images that are looked at, and ``answers`` [k]; ``filters``
        [c, bands, h, w], the derivatives of the first layer's outputs by the pixels of its input;
        ``features0``, ``features1``, ... [k, c, h, w], the channels that vary most of the last layer at each
        resolution; and ``activation`` [k, h, w], the class activation map of the answer, for a network with
        global pooling: what each position adds to its logit. It is the sum over the channels of features
        times derivatives of the logit (Zhou et al. 2016, arXiv:1512.04150; Selvaraju et al. 2017,
        arXiv:1610.02391).
    """
    classes = np.unique(images.labels)
    rows = np.array([np.flatnonzero(images.labels == label)[0] for label in classes])
    with torch_settings(threads, 0, torch.device("cpu")), torch.enable_grad():
        network = model.network.eval()
        pixels = on_device(images[rows], torch.device("cpu")).images.float()
        given = ((pixels - network.mean) / network.spread).requires_grad_()
        seen: dict[str, Tensor] = {}

        def note(name: str, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and len(output) == len(rows):
                seen.setdefault(name, output)

        modules = dict(network.network.named_modules())
        with hooked(modules, note):
            logits = network.network(given, given.new_zeros(len(rows), LEVELS))
        answers = logits.argmax(1)
        found = {"rows": rows, "answers": answers.numpy()}
        first = next(
            (name for name in seen if any(one.ndim > 2 for one in modules[name].parameters(recurse=False))),
            None,
        )
        if first is not None:
            found["filters"] = _filters(seen[first], given)
        for number, maps in enumerate(_scales(seen)):
            order = maps.flatten(2).std(2).mean(0).argsort(descending=True)[:_CHANNELS].sort().values
            found[f"features{number}"] = maps[:, order].detach().numpy()
        features = seen.get("features")
        if getattr(network.network, "pooling", "none") != "none" and features is not None:
            wanted = logits.gather(1, answers[:, None]).sum()
            (slope,) = torch.autograd.grad(wanted, features)
            found["activation"] = (slope * features).sum(1).detach().numpy()
    return found


def _scales(seen: dict[str, Tensor]) -> list[Tensor]:
    """Return the last features of each resolution above one pixel, the finest first."""
    last = {output.shape[-1]: output for output in seen.values() if output.shape[-1] > 1}
    return [last[side] for side in sorted(last, reverse=True)]


def _filters(output: Tensor, given: Tensor) -> NDArray[np.float32]:
    """Return the derivatives of the middle of a layer's output by the pixels, cut to those that matter."""
    middle = output[0, :, output.shape[2] // 2, output.shape[3] // 2]
    each = [torch.autograd.grad(value, given, retain_graph=True)[0][0] for value in middle]
    slopes = torch.stack(each)
    order = slopes.flatten(1).norm(dim=1).argsort(descending=True)[:_FILTERS].sort().values
    slopes = slopes[order]
    support = (slopes.abs() > _LOCAL * slopes.abs().amax((1, 2, 3), keepdim=True)).any(0).any(0)
    rows, columns = (support.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    return slopes[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].numpy()
