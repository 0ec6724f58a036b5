"""Parameters that are NaN, as of a training that diverges, give images that are NaN."""

import pytest
import torch

from shearbench.forward_model.fourier import Grid, Renderer


@pytest.mark.parametrize("profile", ["exponential", "sersic"])
def test_parameters_that_are_nan_give_images_that_are_nan(profile):
    renderer = Renderer(profile, (16, 16), 0.3, Grid(32, 1.0))
    parameters = torch.tensor([[1.0, 0.0, 0.0, 0.6, 0.1, 0.0, 1.5][: len(renderer.names)]]).repeat(2, 1)
    parameters[1, renderer.names.index("hlr")] = torch.nan
    psf = renderer.psf({"profile": "moffat", "beta": 2.5}, 0.7)
    images = renderer(parameters, psf)
    assert images[0].isfinite().all()
    assert images[1].isnan().all()
    assert renderer.information(parameters, psf)[1].isnan().any()
