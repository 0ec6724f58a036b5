"""What an architecture is: options, presets, and one method that builds the torch module."""

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
    """Options of an architecture, and the module they describe.

    A concrete architecture is a subclass in a module of `shearbench.networks`. It sets ``kind``, declares
    its options as fields, lists its ``presets`` (a variant's name, with the options it stands for and, under
    ``training``, what it changes of the recipe) and implements `build`. Its module imports torch only
    inside functions.
    """

    kind: ClassVar[str]
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Variants a configuration may use at once: ``{name: {"options": {...}, "training": {...}}}``."""

    input_scaling: Literal["pixel", "global"] = Field(
        "pixel",
        description="Divide what is left of a stamp without the mean galaxy by one number for all pixels "
        "(global) or by the spread of each pixel, galaxies and noise together (pixel).",
    )
    symmetrise: Literal["never", "test", "always"] = Field(
        "never",
        description="Answer with the mean over the 8 rotations and mirrors of the stamp (and its PSF), "
        "turned back: the shear's offset is then zero by symmetry, at 8 times the cost; `test` only where "
        "shapes are measured, not in training.",
    )
    head: Literal["point", "gaussian"] = Field(
        "point",
        description="Answer with the shape alone, or with the 2x2 covariance of its error as well, which "
        "the loss `nll` trains.",
    )

    auxiliary: bool = Field(
        False,
        description="Train it to answer flux, position and size as well, which helps it to see what the "
        "shape depends on.",
    )

    @property
    def targets(self) -> tuple[str, ...]:
        """What the network is trained to answer, of `shearbench.forward_model.fourier.parameter_names`."""
        return ("flux", "x", "y", "hlr", "g1", "g2") if self.auxiliary else ("g1", "g2")

    @property
    def refined_share(self) -> float:
        """Part of the stamps of a training step whose answers the loss sees, where not all are refined."""
        return 1.0

    def refuses(self, shape: tuple[int, int]) -> str | None:
        """Return why stamps of so many rows and columns cannot be its input, or None if they can."""
        return None

    def build(self, channels: int, shape: tuple[int, int], outputs: int) -> nn.Module:
        """Build the network.

        Parameters
        ----------
        channels : int
            Channels of the input: the stamp, and the PSF where it differs from galaxy to galaxy.
        shape : (int, int)
            Rows and columns of a stamp.
        outputs : int
            How many numbers to answer with.

        Returns
        -------
        torch.nn.Module
            Called as ``module(x, level)`` with ``x`` [n, channels, ny, nx], scaled to order one, and
            ``level`` [n, `LEVELS`]; it returns [n, outputs], of order one as well.
        """
        raise NotImplementedError

    def modules(self) -> tuple[str, ...]:
        """Return the modules whose code decides the answer; what they import is found from there."""
        return (type(self).__module__,)

    def adapted(self, population: Population) -> Architecture:
        """Return the architecture for a population of galaxies and PSFs.

        Raises
        ------
        ValueError
            An option does not go with the population.
        """
        return self

    def body(
        self, shape: tuple[int, int], per_galaxy_psf: bool, targets: tuple[str, ...], outputs: int
    ) -> ImageBody | ComponentBody:
        """Build the network together with what prepares its input; only what does not see images overrides.

        Parameters
        ----------
        shape : (int, int)
            Rows and columns of a stamp.
        per_galaxy_psf : bool
        targets : tuple of str
            What the first numbers of the answer are.
        outputs : int
            How many numbers to answer with.

        Returns
        -------
        torch.nn.Module
            With ``fit`` and ``forward`` as those of `shearbench.networks.modules.bodies.ImageBody`.
        """
        from shearbench.networks.modules.bodies import ImageBody

        network = self.build(1 + per_galaxy_psf, shape, outputs)
        return ImageBody(network, shape, per_galaxy_psf, self.input_scaling == "pixel")

    def refinement(self, shape: tuple[int, int], pixel_scale: float) -> Refinement | None:
        """Return what improves the answer with a forward model, if anything does.

        Parameters
        ----------
        shape : (int, int)
        pixel_scale : float
            Arcsec.
        """
        return None
