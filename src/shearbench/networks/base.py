"""The base class of all architectures: options, presets, and the method that builds the torch module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from shearbench.options import Options

if TYPE_CHECKING:
    from torch import nn

    from shearbench.networks.modules.bodies import ComponentBody, ImageBody
    from shearbench.networks.modules.refinement import Refinement
    from shearbench.simulation.populations import Population


class Architecture(Options):
    """Options of an architecture, and the methods that build the network they describe.

    A concrete architecture is a subclass in a module of `shearbench.networks`. It sets ``kind``, declares
    its options as fields, lists its ``presets`` and implements `build`. A preset maps the name of a variant
    to the options that differ from the defaults and, under ``training``, to the fields of the recipe that
    differ. The module imports torch only inside functions.
    """

    kind: ClassVar[str]
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Variants that a configuration can name directly: ``{name: {"options": {...}, "training": {...}}}``."""

    input_scaling: Literal["pixel", "global"] = Field(
        "pixel",
        description="Scaling of the input, after the mean galaxy is subtracted from the stamp. `pixel` "
        "divides each pixel by its own standard deviation (of galaxies and noise together); `global` divides "
        "all pixels by the same number.",
    )
    symmetrise: Literal["never", "test", "always"] = Field(
        "never",
        description="Average the output over the 8 rotations and mirrors of the stamp (and of its PSF), each "
        "output turned back first. The additive bias is then zero by symmetry; the cost is 8 times higher. "
        "`test` averages when shapes are measured, `always` in training too.",
    )
    head: Literal["point", "gaussian"] = Field(
        "point",
        description="Output of the network: the shape alone (`point`), or the shape and the 2x2 covariance "
        "of its error (`gaussian`). `gaussian` needs `training.loss: nll`, and `nll` needs `gaussian`.",
    )

    auxiliary: bool = Field(
        False,
        description="Train the network to predict flux, position and size (targets `flux`, `x`, `y`, `hlr`) "
        "besides the shape (`g1`, `g2`). These further targets help it to measure the shape.",
    )

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the predicted parameters, from `shearbench.forward_model.fourier.parameter_names`."""
        return ("flux", "x", "y", "hlr", "g1", "g2") if self.auxiliary else ("g1", "g2")

    @property
    def parts(self) -> int:
        """Number of networks of the same layers, side by side, that compute one target each, or 1."""
        return 1

    @property
    def refined_share(self) -> float:
        """Fraction of the stamps of a training step whose shapes enter the loss (0 to 1).

        It is below 1 only for an architecture with a forward model, which refines a part of the stamps.
        """
        return 1.0

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        return None

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network.

        Parameters
        ----------
        channels : int
            Channels of the input: 1 for the stamp, 2 if the image of the PSF is an input too.
        shape : (int, int)
            Rows and columns of a stamp.
        outputs : int
            Number of outputs for each stamp.

        Returns
        -------
        torch.nn.Module
            Called as ``module(x, level)``: ``x`` [n, channels, ny, nx] is the scaled image, of order one;
            ``level`` [n, `LEVELS`] tells the noise level. It returns [n, outputs], of order one.
        """
        raise NotImplementedError

    def classifier(self, channels: int, shape: tuple[int, int], classes: int) -> nn.Module:
        """Build a network whose outputs are the logits of classes, which do not change with orientation.

        Parameters and result are as for `build`.
        """
        return self.build(channels, shape, classes)

    def modules(self) -> tuple[str, ...]:
        """Return the dotted names of the Python modules that define the network.

        A change in one of them, or in a module that they import, makes a training run again.
        """
        return (type(self).__module__,)

    def adapted(self, population: Population) -> Architecture:
        """Return the architecture with the options that depend on the population filled in.

        Raises
        ------
        ValueError
            An option does not fit the population.
        """
        return self

    def body(
        self, shape: tuple[int, int], per_galaxy_psf: bool, targets: tuple[str, ...], outputs: int
    ) -> ImageBody | ComponentBody:
        """Build the network together with the scaling of its input.

        An architecture overrides this method only if its network does not take images, or has to know the
        names of its outputs.

        Parameters
        ----------
        shape : (int, int)
            Rows and columns of a stamp.
        per_galaxy_psf : bool
            Whether the PSF differs from galaxy to galaxy; its image is then an input.
        targets : tuple of str
            Names of the first outputs.
        outputs : int
            Number of outputs for each stamp.

        Returns
        -------
        torch.nn.Module
            It has ``fit`` and ``forward``, with the arguments of those of
            `shearbench.networks.modules.bodies.ImageBody`.
        """
        from shearbench.networks.modules.bodies import ImageBody

        network = self.build(1 + per_galaxy_psf, shape, outputs)
        return ImageBody(network, shape, per_galaxy_psf, self.input_scaling == "pixel")

    def refinement(self, shape: tuple[int, int], pixel_scale: float) -> Refinement | None:
        """Return the module that refines the output by a forward model, or None if there is none.

        Parameters
        ----------
        shape : (int, int)
            Rows and columns of a stamp.
        pixel_scale : float
            Pixel scale [arcsec].
        """
        return None
