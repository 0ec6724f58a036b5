"""The built-in maximum-likelihood fit of Gaussian mixtures, which is not NGMix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from shearbench.data.shapes import Shapes
from shearbench.estimators.base import Estimator

if TYPE_CHECKING:
    import torch

    from shearbench.data.stamps import StampBatch

_GPU_BATCH = 32768


class Mixture(Estimator):
    """Fits with ngmix's likelihood and priors by this package's own code, many stamps at a time."""

    kind: ClassVar[str] = "mixture"
    weighs_masks: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "mixture-exp": {"model": "exp", "label": "mixture fit (exp)"},
        "mixture-gauss": {"model": "gauss", "label": "mixture fit (gauss)"},
    }

    model: Literal["gauss", "exp", "dev", "coellip2", "coellip3", "coellip4", "coellip5"] = Field(
        "exp",
        description="galaxy profile: a Gaussian, mixtures of 6 (exponential) or 10 (de Vaucouleurs), or 2 to "
        "5 Gaussians of one centre and shape, each of a size and a flux of its own",
    )
    psf_model: Literal["auto", "gauss", "coellip1", "coellip2", "coellip3", "coellip4", "coellip5"] = Field(
        "auto",
        description="Gaussians of one centre and shape fitted to the PSF image: their number, or auto: one "
        "where it leaves at most 1% (rms) of the image, three where it does not",
    )
    prior: Literal["ba", "none"] = Field(
        "ba",
        description="ba: Gaussian of 0.2 arcsec about the PSF's centroid, Bernstein & Armstrong (2014) of "
        "width 0.3 in the shape, flat in size and flux, as ngmix-exp has it: unresolved galaxies may get "
        "a negative T, and a shape near 0; none: the likelihood alone, and a fit with T <= 0 is flagged",
    )

    device: Literal["auto", "cpu"] = Field(
        "auto",
        description="auto: torch on the job's GPU where it has one, else compiled code on the CPU; cpu: the "
        "latter always",
    )

    def batch_size(self) -> int | None:
        """Return the number of stamps that fill a GPU if one is used, else None."""
        return _GPU_BATCH if self._gpu() else None

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the shape of every stamp of a batch."""
        from shearbench.measurement.mixture.fit import measure_shapes

        return measure_shapes(batch, self.model, self.psf_model, self.prior, self._gpu())

    def _gpu(self) -> torch.device | None:
        from shearbench.measurement.mixture.fit import job_gpu

        return job_gpu() if self.device == "auto" else None
