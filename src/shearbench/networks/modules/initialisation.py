"""Distributions of the weights before training."""

from __future__ import annotations

import math

from torch import nn

from shearbench.networks.modules.convolution import LocallyConnected
from shearbench.networks.terms import Initialisation


def initialise(module: nn.Module, name: Initialisation) -> nn.Module:
    """Draw the weights of all convolutions, locally connected and dense layers anew, and return the module.

    The biases become zero, as in the papers. `torch` changes nothing.

    Parameters
    ----------
    module : torch.nn.Module
        Its last layer computes the output.
    name : str
        ``xavier``: normal, of variance 2 / (inputs + outputs) (Glorot & Bengio 2010, AISTATS). ``he``:
        normal, of variance 2 / inputs (He et al. 2015, arXiv:1502.01852). ``orthogonal``: a random orthogonal
        matrix times sqrt(2), the factor that ReLU needs (Saxe et al. 2014, arXiv:1312.6120). ``last_zero``:
        the last layer is zero, the others are as torch makes them. Inputs and outputs are numbers of units,
        times the number of pixels of a kernel.
    """
    kinds = (nn.Conv2d, nn.Linear, LocallyConnected)
    layers = [layer for layer in module.modules() if isinstance(layer, kinds)]
    if name == "last_zero":
        layers = layers[-1:]
    for layer in [] if name == "torch" else layers:
        kernels = layer.weight.detach()
        for kernel in kernels if isinstance(layer, LocallyConnected) else [kernels]:
            if name == "xavier":
                nn.init.xavier_normal_(kernel)
            elif name == "he":
                nn.init.kaiming_normal_(kernel, nonlinearity="relu")
            elif name == "orthogonal":
                nn.init.orthogonal_(kernel, math.sqrt(2))
            else:
                nn.init.zeros_(kernel)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return module
