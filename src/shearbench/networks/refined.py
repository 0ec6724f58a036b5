"""Any network's first guess, improved by Gauss-Newton steps through a forward model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from shearbench.networks.base import Architecture
from shearbench.networks.terms import Depth
from shearbench.networks.whitened import Whitened
from shearbench.options import Options

if TYPE_CHECKING:
    from shearbench.networks.modules.bodies import ComponentBody, ImageBody
    from shearbench.networks.modules.refinement import Refinement
    from shearbench.simulation.populations import Population

# What mixtures describe to a tenth of the bound at a noise of 1e-5: half-light radii in FWHM of the PSF.
_MIXTURES = ("gaussian", "exponential")
_MIXTURE_RANGE = (0.5, 3.5)
_LARGEST_SHEAR = 0.6  # for which the Fourier sums are made


class First(Options):
    """The network that makes the guess."""

    architecture: str = Field("whitened", description="Its kind.")
    options: dict[str, Any] = Field(default_factory=dict, description="Its options.")


class Refined(Architecture):
    """A network that answers all parameters of the galaxy, and a forward model that improves them.

    The model is the population's own profile seen through the PSF's image, as a fit would have it; how far
    to trust the guess, and how to shrink the shape at high noise, is learned.
    """

    kind: ClassVar[str] = "refined"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "refined": {"training": Whitened.presets["whitened"]["training"]}  # its first network's, by default
    }

    first: First = Field(
        First(),
        validate_default=True,
        description="The network that makes the guess: architecture and options.",
    )
    profile: Literal["auto", "gaussian", "exponential", "sersic"] = Field(
        "auto", description="The forward model's; auto: that of the population."
    )
    forward_model: Literal["auto", "fourier", "mixture"] = Field(
        "auto",
        description="Fourier sums, for any PSF; or, on a CPU, Gaussian mixtures: many times faster, and as "
        "good for exponential or Gaussian galaxies of half-light radii of 0.5 to 3.5 FWHM of a Gaussian PSF. "
        "auto: mixture where all galaxies are such.",
    )
    steps: Depth = Field(1, description="Gauss-Newton steps.")
    share: float = Field(
        0.25, ge=1e-3, le=1, description="Part of the stamps of a training step that is refined as well."
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
            raise ValueError("head: a refined network has its errors from the forward model; use point")
        if self._first().symmetrise != "never":
            raise ValueError("first.options.symmetrise: say it of the refined network, not of the first")
        return self

    def _first(self) -> Architecture:
        from shearbench.networks import architecture_kinds

        return architecture_kinds()[self.first.architecture](**self.first.options)

    @property
    def targets(self) -> tuple[str, ...]:
        """All parameters of the profile."""
        names = ("flux", "x", "y", "hlr", "g1", "g2")
        return (*names, "n") if self.profile == "sersic" else names

    @property
    def refined_share(self) -> float:
        """The option `share`."""
        return self.share

    def modules(self) -> tuple[str, ...]:
        """Return its own and the first network's; see `Architecture.modules`."""
        return (*super().modules(), *self._first().modules())

    def adapted(self, population: Population) -> Architecture:
        """Return itself with the population's profile, where none is given; see `Architecture.adapted`.

        Raises
        ------
        ValueError
            Mixtures are asked for, and do not describe the population.
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
                "options.forward_model: 'mixture' describes Gaussian and exponential galaxies, of half-light "
                f"radii of {_MIXTURE_RANGE[0]:g} to {_MIXTURE_RANGE[1]:g} FWHM of a Gaussian PSF, which "
                "those of this population are not; use auto or fourier"
            )
        model = self.forward_model
        if model == "auto":
            model = "mixture" if described else "fourier"
        return self.model_copy(update={"profile": profile, "forward_model": model})

    def refuses(self, shape: tuple[int, int]) -> str | None:
        """Return why stamps of so many rows and columns cannot be its input, or None if they can."""
        reason = self._first().refuses(shape)
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

        # Wings matter: with copies a stamp and a half away, Sersic galaxies are off by the bound at 1e-5.
        grid = Grid(-(-2 * max(shape) // 3), wings=8.0, reach=light_reach(_LARGEST_SHEAR) / 2)
        profile = "exponential" if self.profile == "auto" else self.profile
        mixture = None
        if self.forward_model == "mixture":
            from shearbench.forward_model.gaussian_mixture import MixtureModel

            mixture = MixtureModel(profile, pixel_scale)
        return Refinement(profile, shape, pixel_scale, self.steps, self.share, grid, mixture)
