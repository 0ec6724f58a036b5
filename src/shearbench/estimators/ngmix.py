"""NGMix: maximum-likelihood fits of one galaxy at a time, by the package ngmix (E. Sheldon, GPL-2.0)."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from shearbench.data.shapes import Shapes
from shearbench.estimators.base import Estimator

if TYPE_CHECKING:
    from shearbench.data.stamps import StampBatch
    from shearbench.measurement.ngmix import GalaxyFitter

PsfModel = Literal["auto", "gauss", "coellip3", "coellip4", "coellip5", "em"]


class Ngmix(Estimator):
    """A fit by ngmix to the pixels of a stamp, given the noise level and the PSF image and nothing else.

    The defaults are those of ngmix's examples, with the shape prior and the starting size adapted to the
    stamps.
    """

    kind: ClassVar[str] = "ngmix"
    weighs_masks: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "ngmix-exp": {"model": "exp", "label": "NGMix exp"},
        "ngmix-gauss": {"model": "gauss", "label": "NGMix gauss"},
        "ngmix-exp-gauss-psf": {"model": "exp", "psf_model": "gauss", "label": "NGMix exp, one-Gaussian PSF"},
        "ngmix-dev": {"model": "dev", "label": "NGMix dev"},
        "ngmix-spergel": {"model": "spergel", "label": "NGMix Spergel"},
    }

    model: Literal["gauss", "exp", "dev", "spergel"] = Field(
        "exp",
        description="galaxy profile; gauss, exp and dev are mixtures of 1, 6 and 10 Gaussians, spergel has a "
        "free concentration and is drawn by GalSim, with the PSF image as it is",
    )
    psf_model: PsfModel = Field(
        "auto",
        description="what the mixture models fit to the PSF image: one Gaussian, 3 to 5 co-elliptical ones, "
        "or 5 free ones (em); auto: one Gaussian where that leaves less than 1% (rms), else coellip3",
    )
    prior: Literal["standard", "none"] = Field(
        "standard",
        description="standard: a Gaussian on the centroid, Bernstein & Armstrong on the shape, flat in size "
        "(T from -1 arcsec^2: unresolved galaxies may get a negative T, and a shape near 0) and flux; none: "
        "likelihood alone, and a fit with T <= 0 is flagged",
    )
    prior_centroid_arcsec: float = Field(
        0.2, ge=1e-4, le=100, description="width of the centroid prior, about the PSF's centre [arcsec]"
    )
    prior_shape_sigma: float = Field(0.3, ge=1e-3, le=10, description="width of the shape prior")
    guess_hlr_arcsec: float = Field(
        0.5,
        ge=1e-3,
        le=100,
        description="half-light radius where every fit starts, whatever the galaxy [arcsec]",
    )
    tries: int = Field(4, ge=1, le=100, description="fits from new guesses before a galaxy counts as failed")

    def unavailable(self) -> str | None:
        """Return how to install ngmix if it cannot be imported, else None."""
        if importlib.util.find_spec("ngmix") is not None:
            return None
        return (
            "ngmix is not importable. It is on conda-forge, not on PyPI: run snakemake with --sdm conda "
            "(envs/ngmix.yaml), or `conda install -c conda-forge ngmix`, or `pip install` a checkout of "
            "https://github.com/esheldon/ngmix into this environment"
        )

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the shape of every stamp of a batch."""
        from shearbench.measurement.ngmix import fit_galaxies

        return fit_galaxies(batch, self.fitter(batch.pixel_scale))

    def fitter(self, pixel_scale: float) -> GalaxyFitter:
        """Return the fitter with these options, for stamps of a given pixel scale (arcsec)."""
        from shearbench.measurement.ngmix import GalaxyFitter

        return GalaxyFitter(
            pixel_scale,
            model=self.model,
            psf_model=self.psf_model,
            prior=self.prior == "standard",
            prior_centroid=self.prior_centroid_arcsec,
            prior_shape=self.prior_shape_sigma,
            guess_hlr=self.guess_hlr_arcsec,
            tries=self.tries,
        )


class NgmixMetacal(Ngmix):
    """Metacalibration of one of ngmix's fits, by ngmix's own bootstrapper.

    The results are ellipticities and their shear responses, not shapes: the mean ellipticity of an ensemble
    over its mean response is a shear (Sheldon & Huff 2017, ApJ 841, 24).
    """

    kind: ClassVar[str] = "ngmix-metacal"
    weighs_masks: ClassVar[bool] = False
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "ngmix-metacal": {"model": "gauss", "label": "NGMix metacal"},
    }
    ensemble_response: ClassVar[bool] = True

    reconvolution: Literal["fitgauss", "azgauss", "gauss"] = Field(
        "fitgauss",
        description="the new PSF is a round Gaussian: fitgauss takes the width of a Gaussian fit to the old "
        "PSF, azgauss from the frequency where its power ends; gauss is an older, noisier azgauss",
    )
    step: float = Field(0.01, ge=1e-6, le=0.1, description="shear applied to the stamps, both ways")

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the ellipticity of every stamp of a batch, and its shear response."""
        from shearbench.measurement.ngmix import fit_metacal

        return fit_metacal(batch, self.fitter(batch.pixel_scale), self.reconvolution, self.step)
