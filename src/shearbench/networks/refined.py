"""Networks whose first guess is improved by Gauss-Newton steps through a forward model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from shearbench.networks.base import Architecture
from shearbench.networks.terms import Depth
from shearbench.options import Options

if TYPE_CHECKING:
    from shearbench.networks.modules.bodies import ComponentBody, ImageBody
    from shearbench.networks.modules.refinement import Refinement
    from shearbench.simulation.populations import Population

# For these profiles and half-light radii [FWHM of the PSF] the error of a Gaussian mixture model is below a
# tenth of the Cramer-Rao bound at a noise of 1e-5 per pixel.
_MIXTURES = ("gaussian", "exponential")
_MIXTURE_RANGE = (0.5, 3.5)
_LARGEST_SHEAR = 0.6  # |g| for which the grid of the Fourier sums is chosen


class First(Options):
    """The network that makes the first guess."""

    architecture: str = Field(
        "whitened",
        description="Kind of the network that makes the first guess: any architecture but `refined`.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of that network that differ from its defaults."
    )


class Refined(Architecture):
    """A network predicts all parameters of the galaxy, and a forward model refines them.

    The forward model is the galaxy profile of the population convolved with the image of the PSF, as in a
    fit. Two small networks are trained as well: one weighs the guess against the pixels, the other shrinks
    the shape at high noise.
    """

    kind: ClassVar[str] = "refined"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # True labels, without those options of `whitened` that lower a floor which the forward model removes.
        "refined": {
            "training": {
                "data": "rendered",
                "augmentation": [],
                "optimiser": "soap",
                "batch_size": 512,
                "epochs": 30,
            }
        }
    }

    first: First = Field(
        First(),
        validate_default=True,
        description="The network that makes the first guess: its architecture and options.",
    )
    profile: Literal["auto", "gaussian", "exponential", "sersic"] = Field(
        "auto",
        description="Galaxy profile of the forward model; auto: the profile of the population.",
    )
    forward_model: Literal["auto", "fourier", "mixture"] = Field(
        "auto",
        description="How the forward model computes images. `fourier`: Fourier sums, for any PSF. `mixture`: "
        "sums of Gaussians, many times faster on a CPU and as accurate, but only for exponential or Gaussian "
        "galaxies with half-light radii of 0.5 to 3.5 times the FWHM of a Gaussian PSF; on a GPU it uses "
        "Fourier sums. `auto`: `mixture` if all galaxies of the population are of this kind, else `fourier`.",
    )
    steps: Depth = Field(1, description="Number of Gauss-Newton steps.")
    share: float = Field(
        0.25,
        ge=1e-3,
        le=1,
        description="Fraction of the stamps of each training step that the forward model refines; when "
        "shapes are measured, it refines all stamps.",
    )

    @field_validator("first")
    @classmethod
    def _known(cls, first: First) -> First:
        from shearbench.errors import ConfigError, nearest
        from shearbench.networks import architecture_kinds
        from shearbench.options import validated

        kinds = [kind for kind in architecture_kinds() if kind != cls.kind]
        if first.architecture not in kinds:
            raise ValueError(
                f"architecture: there is no network '{first.architecture}'"
                f"{nearest(first.architecture, kinds)}. "
                f"Allowed: {', '.join(sorted(kinds))}"
            )
        try:
            inner = validated(architecture_kinds()[first.architecture], first.options, ("options",))
        except ConfigError as error:
            raise ValueError("; ".join(str(error).splitlines())) from None
        return First(architecture=first.architecture, options=inner.model_dump(mode="json"))

    @model_validator(mode="after")
    def _errors_of_its_own(self) -> Refined:
        if self.head != "point" or self._first().head != "point":
            raise ValueError(
                "head: found gaussian; a refined network takes its errors from the forward model; use point"
            )
        if self._first().symmetrise != "never":
            raise ValueError(
                "first.options.symmetrise: set symmetrise in the options of the refined network instead, "
                "not in those of its first network"
            )
        return self

    def _first(self) -> Architecture:
        from shearbench.networks import architecture_kinds

        return architecture_kinds()[self.first.architecture](**self.first.options)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of all parameters of the profile."""
        names = ("flux", "x", "y", "hlr", "g1", "g2")
        return (*names, "n") if self.profile == "sersic" else names

    @property
    def parts(self) -> int:
        """Number of networks side by side in the first network; see `Architecture.parts`."""
        return self._first().parts

    @property
    def refined_share(self) -> float:
        """Fraction of the stamps of a training step that is refined: the option `share`."""
        return self.share

    def modules(self) -> tuple[str, ...]:
        """Return the modules of this architecture and of its first network; see `Architecture.modules`."""
        return (*super().modules(), *self._first().modules())

    def adapted(self, population: Population) -> Architecture:
        """Return the architecture with `auto` replaced in ``profile`` and ``forward_model``.

        Raises
        ------
        ValueError
            ``forward_model`` is `mixture`, and the population has galaxies or PSFs that Gaussian mixtures do
            not describe.
        """
        profile = population.model_profile if self.profile == "auto" else self.profile
        sizes, widths = population.half_light_radius_arcsec, population.psf.fwhm_arcsec
        described = (
            population.psf.profile == "gaussian"
            and profile in _MIXTURES
            and sizes[0] >= _MIXTURE_RANGE[0] * widths[1]
            and sizes[1] <= _MIXTURE_RANGE[1] * widths[0]
        )
        if self.forward_model == "mixture" and not described:
            raise ValueError(
                "options.forward_model: 'mixture' is for Gaussian and exponential galaxies with half-light "
                f"radii of {_MIXTURE_RANGE[0]:g} to {_MIXTURE_RANGE[1]:g} times the FWHM of a Gaussian PSF, "
                "and this population has others; use auto or fourier"
            )
        model = self.forward_model
        if model == "auto":
            model = "mixture" if described else "fourier"
        return self.model_copy(update={"profile": profile, "forward_model": model})

    def objection(self, shape: tuple[int, int]) -> str | None:
        """Return why the network cannot take stamps of this shape (rows, columns), or None if it can."""
        reason = self._first().objection(shape)
        return reason and f"options.first: {reason}"

    def body(
        self, shape: tuple[int, int], per_galaxy_psf: bool, targets: tuple[str, ...], outputs: int
    ) -> ImageBody | ComponentBody:
        """Build the first network; see `Architecture.body`."""
        return self._first().body(shape, per_galaxy_psf, targets, outputs)

    def refinement(self, shape: tuple[int, int], pixel_scale: float) -> Refinement:
        """Build the Gauss-Newton steps; see `Architecture.refinement`."""
        from shearbench.forward_model.fourier import Grid, light_reach
        from shearbench.networks.modules.refinement import Refinement

        # The wings of a Sersic galaxy reach far. On a grid of 1.5 stamps, its periodic copies would shift the
        # shape by as much as the Cramer-Rao bound at a noise of 1e-5.
        grid = Grid(-(-2 * max(shape) // 3), wings=8.0, reach=light_reach(_LARGEST_SHEAR) / 2)
        profile = "exponential" if self.profile == "auto" else self.profile
        mixture = None
        if self.forward_model == "mixture":
            from shearbench.forward_model.gaussian_mixture import MixtureModel

            mixture = MixtureModel(profile, pixel_scale)
        return Refinement(profile, shape, pixel_scale, self.steps, self.share, grid, mixture)
