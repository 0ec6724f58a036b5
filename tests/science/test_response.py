"""Responses by automatic differentiation compared with pairs under opposite shears."""

import pytest
import torch

from shearbench.evaluation.response import shear_response
from shearbench.forward_model.fourier import Grid, Renderer
from shearbench.simulation.catalog import shear_shape

SHAPE, SCALE, STEP = (24, 24), 0.2, 1e-4


@pytest.fixture
def galaxies():
    torch.manual_seed(0)
    parameters = torch.rand(6, 6, dtype=torch.float64)
    parameters[:, 0] += 1
    parameters[:, 1:3] *= 0.1
    parameters[:, 3] = 0.4 + 0.2 * parameters[:, 3]
    parameters[:, 4:] = 0.8 * (parameters[:, 4:] - 0.5)
    return parameters


@pytest.mark.parametrize("sigma", [0.0, 0.01])
def test_response_is_that_of_sheared_pairs(galaxies, sigma):
    renderer = Renderer("exponential", SHAPE, SCALE, Grid(48), torch.float64)
    psf = renderer.psf({"profile": "gaussian"}, 0.6)
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(24 * 24, 32), torch.nn.SiLU(), torch.nn.Linear(32, 2)
    ).double()
    noise = sigma * torch.randn(6, *SHAPE, dtype=torch.float64)
    found = shear_response(network, renderer, galaxies, psf, noise if sigma else None)
    assert found.shape == (6, 2, 2)
    with torch.no_grad():
        for j, direction in enumerate(((STEP, 0.0), (0.0, STEP))):
            answers = []
            for sign in (1, -1):
                sheared = galaxies.clone()
                e1, e2 = galaxies[:, 4].numpy(), galaxies[:, 5].numpy()
                g1, g2 = shear_shape(e1, e2, sign * direction[0], sign * direction[1])
                sheared[:, 4], sheared[:, 5] = torch.from_numpy(g1), torch.from_numpy(g2)
                answers.append(network(renderer(sheared, psf) + noise))
            difference = (answers[0] - answers[1]) / (2 * STEP)
            torch.testing.assert_close(found[:, :, j], difference, rtol=1e-5, atol=1e-8)


def test_the_true_shape_responds_as_a_shape(galaxies):
    """An estimator that inverts the rendering exactly has the response of the true shapes."""
    renderer = Renderer("exponential", SHAPE, SCALE, Grid(48), torch.float64)
    psf = renderer.psf({"profile": "gaussian"}, 0.6)
    images, derivatives = renderer.jacobian(galaxies, psf)
    inverse = torch.linalg.pinv(derivatives.flatten(2).mT)[:, 4:6]

    def fit(stamps):
        return (inverse @ (stamps - images).flatten(1)[:, :, None])[:, :, 0]

    g = torch.complex(galaxies[:, 4], galaxies[:, 5])
    first, second = 1 - g**2, 1j * (1 + g**2)
    expected = torch.stack(
        [torch.stack([first.real, second.real], 1), torch.stack([first.imag, second.imag], 1)], 1
    )
    torch.testing.assert_close(shear_response(fit, renderer, galaxies, psf), expected)
