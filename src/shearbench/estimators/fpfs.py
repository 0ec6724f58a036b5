"""FPFS: shapelet moments with an analytic shear response, by the package AnaCal (X. Li, GPL-3.0)."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from shearbench.data.shapes import Shapes
from shearbench.estimators.base import Estimator

if TYPE_CHECKING:
    from shearbench.data.stamps import StampBatch


class AnacalFpfs(Estimator):
    """Fourier Power Function Shapelets (Li & Mandelbaum 2023, MNRAS 521, 4904), measured about the centroid.

    The results are ellipticities and their shear responses, not shapes: the mean ellipticity of an ensemble
    over its mean response is a shear.
    """

    kind: ClassVar[str] = "anacal"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"anacal-fpfs": {"label": "AnaCal FPFS"}}
    ensemble_response: ClassVar[bool] = True

    sigma_arcsec: float = Field(
        0.52, ge=0.01, lt=3, description="width of the shapelets; wider than the PSF, or noise grows [arcsec]"
    )
    c0: float = Field(
        0.5,
        ge=1e-6,
        le=1e6,
        description="weight against faint galaxies in the ellipticity m22 / (m00 + c0), in units of m00: the "
        "flux under the shapelets' Gaussian per arcsec^2",
    )

    def unavailable(self) -> str | None:
        """Return how to install AnaCal if it cannot be imported, else None."""
        if importlib.util.find_spec("anacal") is not None:
            return None
        return "anacal is not importable: `pip install anacal`, or `conda install -c conda-forge anacal`"

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the ellipticity of every stamp of a batch, and its shear response."""
        from shearbench.measurement.fpfs import measure_fpfs

        return measure_fpfs(batch, self.sigma_arcsec, self.c0)
