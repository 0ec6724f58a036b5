"""The small network in PyTorch: this project's own `shearnet`, with the weights of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shearbench.frameworks.base import BETA1, BETA2, EPSILON, LAYERS, Sizes, Weights, check_weights
from shearbench.networks.shearnet import ShearNet
from shearbench.networks.terms import LEVELS

Array = NDArray[np.floating]


class TorchNetwork:
    """The small network in PyTorch; see `shearbench.frameworks.base.SmallNetwork`.

    The project's networks have the noise level as a further input of the first dense layer, which the
    published one has not. It is zero here, and so are the weights that multiply it.

    Parameters
    ----------
    sizes : Sizes
    weights : dict of str to ndarray
    precision : {'float64', 'float32'}

    Raises
    ------
    ValueError
        A skip connection is asked for.
    """

    def __init__(self, sizes: Sizes, weights: Weights, precision: str = "float32") -> None:
        check_weights(sizes, weights)
        if sizes.skip:
            raise ValueError("the network in PyTorch has no skip connection")
        self.sizes, self.dtype = sizes, getattr(torch, precision)
        network: Any = ShearNet(width=sizes.width, hidden=sizes.hidden).build(1, sizes.shape, sizes.outputs)
        if sizes.pooling == "max":
            for name, module in network.features.named_children():
                if isinstance(module, nn.AvgPool2d):
                    setattr(network.features, name, nn.MaxPool2d(2))
        self.network = network.to(self.dtype)
        found = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        self.layers: dict[str, Any] = dict(zip(LAYERS, found, strict=True))
        with torch.no_grad():
            for name, layer in self.layers.items():
                kernel = torch.from_numpy(np.array(weights[f"{name}.kernel"]))
                layer.weight.copy_(self._to_torch(name, kernel))
                layer.bias.copy_(torch.from_numpy(np.array(weights[f"{name}.bias"])))
        self.optimiser = torch.optim.Adam(network.parameters(), betas=(BETA1, BETA2), eps=EPSILON)

    def forward(self, images: Array) -> Array:
        """Return the outputs for some images; see `SmallNetwork.forward`."""
        with torch.inference_mode():
            return self._outputs(images).numpy()

    def gradients(self, images: Array, targets: Array) -> tuple[float, Weights]:
        """Return the loss and its derivatives; see `SmallNetwork.gradients`."""
        self.optimiser.zero_grad()
        loss = nn.functional.mse_loss(self._outputs(images), self._tensor(targets))
        loss.backward()
        found: Weights = {}
        for name, layer in self.layers.items():
            found[f"{name}.kernel"] = self._from_torch(name, layer.weight.grad)
            found[f"{name}.bias"] = layer.bias.grad.numpy().copy()
        return float(loss.detach()), found

    def step(self, images: Array, targets: Array, rate: float) -> float:
        """Change the weights by one step of Adam; see `SmallNetwork.step`."""
        self.optimiser.zero_grad()
        loss = nn.functional.mse_loss(self._outputs(images), self._tensor(targets))
        loss.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        return float(loss.detach())

    def weights(self) -> Weights:
        """Return the weights as they are now."""
        found: Weights = {}
        for name, layer in self.layers.items():
            found[f"{name}.kernel"] = self._from_torch(name, layer.weight.detach())
            found[f"{name}.bias"] = layer.bias.detach().numpy().copy()
        return found

    def _tensor(self, values: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.dtype)

    def _outputs(self, images: Array) -> Tensor:
        x = self._tensor(images)[:, None]
        return self.network(x, x.new_zeros(len(x), LEVELS))

    # PyTorch has the output first in its kernels, channels before rows and columns, and the noise level.

    def _to_torch(self, name: str, kernel: Tensor) -> Tensor:
        if name.startswith("convolution"):
            return kernel.permute(3, 2, 0, 1)
        if name == "dense1":
            rows, columns, channels = self.sizes.pooled
            kernel = kernel.reshape(rows, columns, channels, -1).permute(2, 0, 1, 3).reshape(kernel.shape)
            kernel = torch.cat([kernel, kernel.new_zeros(LEVELS, kernel.shape[1])])
        return kernel.T

    def _from_torch(self, name: str, weight: Tensor) -> Array:
        if name.startswith("convolution"):
            return weight.permute(2, 3, 1, 0).contiguous().numpy().copy()
        kernel = weight.T
        if name == "dense1":
            rows, columns, channels = self.sizes.pooled
            kernel = kernel[:-LEVELS]
            kernel = kernel.reshape(channels, rows, columns, -1).permute(1, 2, 0, 3).reshape(kernel.shape)
        return kernel.contiguous().numpy().copy()
