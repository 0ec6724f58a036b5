"""The Fourier renderer compared with GalSim, and its derivatives with automatic differentiation."""

import time

import galsim
import numpy as np
import pandas as pd
import pytest
import torch
from simulated import PRECISE, precise_galaxy

from shearbench.forward_model import fourier
from shearbench.forward_model.accuracy import Extremes, choose_bandwidth, choose_grid, renderer_for
from shearbench.forward_model.fourier import HLR, PARAMETERS, XY, G, Grid, Renderer, parameter_names
from shearbench.forward_model.profiles import sersic_transform

SHAPE, SCALE = (48, 48), 0.2
GAUSSIAN = {"profile": "gaussian"}
MOFFAT = {"profile": "moffat", "beta": 2.5}


def disc(rng, count, largest):
    size, angle = largest * np.sqrt(rng.uniform(0, 1, count)), rng.uniform(0, 2 * np.pi, count)
    return size * np.cos(angle), size * np.sin(angle)


def draw_parameters(profile, count, seed):
    """Return the default population, with g uniform over the allowed disc."""
    rng = np.random.default_rng(seed)
    columns = [
        rng.uniform(0.5, 5, count),
        *rng.uniform(-SCALE / 2, SCALE / 2, (2, count)),
        rng.uniform(0.5, 1.2, count),
        *disc(rng, count, 0.6),
    ]
    if profile == "sersic":
        columns.append(rng.uniform(0.7, 3.5, count))
    return np.stack(columns, axis=1)


def galsim_images(profile, parameters, psfs, shape=SHAPE):
    ny, nx = shape
    return np.stack(
        [
            galsim.Convolve(precise_galaxy(profile, *row), psf, gsparams=PRECISE)
            .drawImage(nx=nx, ny=ny, scale=SCALE, dtype=float)
            .array
            for row, psf in zip(parameters, psfs)
        ]
    )


def error(images, expected, parameters):
    """The largest error of a pixel, as a fraction of the flux."""
    return np.abs((images.double().numpy() - expected) / parameters[:, :1, None]).max()


@pytest.mark.parametrize("profile", ["gaussian", "exponential"])
def test_images_are_galsims_to_1e_7_of_the_flux(profile):
    extremes = Extremes(profile, SHAPE, SCALE, GAUSSIAN, hlr=(0.5, 1.2), g_max=0.6, psf_fwhm=(0.6, 0.6))
    grid = choose_grid(extremes, 1e-7)
    parameters = draw_parameters(profile, 40, seed=1)
    expected = galsim_images(profile, parameters, [galsim.Gaussian(fwhm=0.6, gsparams=PRECISE)] * 40)
    for dtype in (torch.float32, torch.float64):
        renderer = Renderer(profile, SHAPE, SCALE, grid, dtype)
        images = renderer(torch.from_numpy(parameters), renderer.psf(GAUSSIAN, 0.6))
        assert images.dtype == dtype
        assert error(images, expected, parameters) <= 1e-7


def test_sersic_images_under_elliptical_moffats_are_galsims_to_1e_6_of_the_flux():
    count = 8
    rng = np.random.default_rng(2)
    fwhm, (g1, g2) = rng.uniform(0.6, 0.9, count), disc(rng, count, 0.1)
    extremes = Extremes(
        "sersic",
        SHAPE,
        SCALE,
        MOFFAT,
        hlr=(0.5, 1.2),
        g_max=0.6,
        psf_fwhm=(0.6, 0.9),
        psf_g_max=0.1,
        n=(0.7, 3.5),
    )
    grid = choose_grid(extremes, 1e-6)
    parameters = draw_parameters("sersic", count, seed=3)
    psfs = [galsim.Moffat(2.5, fwhm=w, gsparams=PRECISE).shear(g1=a, g2=b) for w, a, b in zip(fwhm, g1, g2)]
    expected = galsim_images("sersic", parameters, psfs)
    for dtype in (torch.float32, torch.float64):
        renderer = Renderer("sersic", SHAPE, SCALE, grid, dtype)
        psf = renderer.psf(MOFFAT, *map(torch.from_numpy, (fwhm, g1, g2)))
        assert error(renderer(torch.from_numpy(parameters), psf), expected, parameters) <= 1e-6


def test_a_tighter_tolerance_takes_a_larger_grid_and_a_training_grid_is_good_to_1e_5():
    extremes = Extremes("exponential", SHAPE, SCALE, GAUSSIAN, (0.5, 1.2), 0.6, (0.6, 0.6))
    costs = [choose_grid(extremes, tolerance).cost(48) for tolerance in (1e-5, 1e-6, 1e-7, 1e-9)]
    assert costs == sorted(set(costs))
    assert choose_bandwidth(extremes, 1e-7) >= choose_bandwidth(extremes, 1e-5)
    parameters = torch.from_numpy(draw_parameters("exponential", 50, seed=4))
    exact = Renderer("exponential", SHAPE, SCALE, Grid(512, 2.0), torch.float64)
    coarse = Renderer("exponential", SHAPE, SCALE, Grid(80))
    difference = coarse(parameters, coarse.psf(GAUSSIAN, 0.6)) - exact(parameters, exact.psf(GAUSSIAN, 0.6))
    assert (difference / parameters[:, :1, None]).abs().max() < 1e-5


def test_frequencies_that_crowd_towards_zero_are_as_good_as_a_long_period():
    parameters = torch.tensor([[1.0, 0.1, -0.05, 1.2, 0.5, 0.2, 3.5], [1.0, 0.0, 0.1, 0.5, -0.3, 0.0, 0.7]])
    images = {}
    assert Grid(80, 1.5, wings=8).nodes < Grid(640, 1.5).nodes / 5
    for grid in (Grid(80, 1.5), Grid(80, 1.5, wings=8), Grid(640, 1.5)):
        renderer = Renderer("sersic", SHAPE, SCALE, grid, torch.float64)
        images[grid] = renderer(parameters, renderer.psf(MOFFAT, 0.7))
    plain, wings, exact = images.values()
    assert (wings - exact).abs().max() < 3e-8
    assert (plain - exact).abs().max() > 1e-6  # so there was something to mend


def test_places_of_parameters_are_those_of_their_names():
    names = dict(zip(("FLUX", "X", "Y", "HLR", "G1", "G2", "SERSIC_N"), PARAMETERS, strict=True))
    for constant, name in names.items():
        assert parameter_names("sersic").index(name) == getattr(fourier, constant)
    assert (PARAMETERS[XY], PARAMETERS[G]) == (("x", "y"), ("g1", "g2"))


def test_a_renderer_is_chosen_for_a_catalog_and_for_limits_beyond_it():
    parameters = draw_parameters("exponential", 20, seed=2)
    catalog = pd.DataFrame(parameters[:, 3:], columns=["hlr", "g1", "g2"])
    catalog = catalog.assign(psf_fwhm=0.6, psf_g1=0.0, psf_g2=0.0, sersic_n=1.0)
    catalog.attrs["psf"] = GAUSSIAN
    own = renderer_for(catalog, "exponential", SHAPE, SCALE, 1e-6)
    wider = renderer_for(catalog, "exponential", SHAPE, SCALE, 1e-6, hlr=(0.3, 2.5), g_max=0.8)
    assert own.grid.cost(48) < wider.grid.cost(48)
    for renderer, rows in ((own, parameters), (wider, np.array([[1, 0, 0, 2.5, 0.8, 0]]))):
        found = renderer(torch.tensor(rows), renderer.psf(GAUSSIAN, 0.6))
        expected = galsim_images("exponential", rows, [galsim.Gaussian(fwhm=0.6)] * len(rows))
        assert error(found, expected, rows) < 1.2e-6


@pytest.mark.parametrize("shape", [(33, 48), (40, 47)])
def test_the_centre_is_galsims_true_centre_for_even_and_odd_sizes(shape):
    parameters = draw_parameters("exponential", 3, seed=5)
    psf = galsim.Gaussian(fwhm=0.7, gsparams=PRECISE)
    renderer = Renderer("exponential", shape, SCALE, Grid(112, 1.125), torch.float64)
    images = renderer(torch.from_numpy(parameters), renderer.psf(GAUSSIAN, 0.7))
    assert error(images, galsim_images("exponential", parameters, [psf] * 3, shape), parameters) <= 1e-7


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        (GAUSSIAN, lambda w: galsim.Gaussian(fwhm=w)),
        (MOFFAT, lambda w: galsim.Moffat(2.5, fwhm=w, gsparams=PRECISE)),
        ({"profile": "moffat", "beta": 3.5}, lambda w: galsim.Moffat(3.5, fwhm=w, gsparams=PRECISE)),
        ({"profile": "moffat", "beta": 4.765}, lambda w: galsim.Moffat(4.765, fwhm=w, gsparams=PRECISE)),
        ({"profile": "kolmogorov"}, lambda w: galsim.Kolmogorov(fwhm=w)),
    ],
)
def test_psfs_transform_as_galsims_do(spec, reference):
    renderer = Renderer("gaussian", SHAPE, SCALE, Grid(16, 1.5), torch.float64)
    shapes = [(0.65, 0.05, 0.1), (0.9, -0.1, 0.02)]
    psf = renderer.psf(spec, *torch.tensor(shapes, dtype=torch.float64).T)
    k = (np.arange(12) + 0.5) * 2 * np.pi / (16 * SCALE)
    pixel = galsim.Pixel(SCALE)
    for index, (width, g1, g2) in enumerate(shapes):
        expected = galsim.Convolve(reference(width).shear(g1=g1, g2=g2), pixel)
        transform = psf[slice(None)]
        for sign, found in ((1, transform.real_plus), (-1, transform.real_minus)):
            values = [[expected.kValue(kx, sign * ky).real for kx in k] for ky in k]
            np.testing.assert_allclose(found[index].numpy(), values, atol=1e-8, rtol=0)


def lopsided_psf(width):
    blob = galsim.Gaussian(fwhm=width, gsparams=PRECISE).shear(g1=0.05)
    return 0.8 * blob + 0.2 * blob.dilate(1.2).shift(0.3, 0.15)


def test_psf_images_are_applied_without_another_pixel():
    widths = (0.9, 1.0)
    parameters = draw_parameters("exponential", 2, seed=6)
    psfs = [lopsided_psf(width) for width in widths]
    stamps = np.stack([psf.drawImage(nx=60, ny=60, scale=SCALE, dtype=float).array for psf in psfs])
    expected = galsim_images("exponential", parameters, psfs)
    for grid in (Grid(112), Grid(80, 1.25, wings=2)):
        renderer = Renderer("exponential", SHAPE, SCALE, grid, torch.float64)
        images = renderer(torch.from_numpy(parameters), renderer.psf_image(torch.from_numpy(stamps)))
        assert error(images, expected, parameters) <= 1e-7
        alone = renderer(torch.from_numpy(parameters[:1]), renderer.psf_image(torch.from_numpy(stamps[0])))
        torch.testing.assert_close(alone, images[:1])


@pytest.mark.parametrize("n", [0.5, 1.0])
def test_sersic_transform_has_its_closed_forms(n):
    q = np.geomspace(1e-3, 1e3, 500)
    # b(2) is 1.67834699..., from GalSim's exponential: hlr = 1.678 scale radii.
    b = galsim.Exponential(scale_radius=1.0).half_light_radius
    expected = np.exp(-(q**2) / (4 * np.log(2))) if n == 0.5 else (1 + (q / b) ** 2) ** -1.5
    np.testing.assert_allclose(sersic_transform(n, q), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("n", "profile"), [(0.5, "gaussian"), (1.0, "exponential")])
def test_sersic_images_contain_the_other_profiles(n, profile):
    parameters = torch.from_numpy(draw_parameters(profile, 10, seed=7))
    with_n = torch.cat([parameters, torch.full((10, 1), n)], dim=1)
    renderers = [Renderer(name, SHAPE, SCALE, Grid(96), torch.float64) for name in (profile, "sersic")]
    plain, sersic = (
        renderer(p, renderer.psf(MOFFAT, 0.7)) for renderer, p in zip(renderers, (parameters, with_n))
    )
    assert ((plain - sersic) / parameters[:, :1, None]).abs().max() < 1e-8


def psf_cases(renderer, count):
    g = torch.linspace(-0.05, 0.08, count, dtype=torch.float64)
    image = torch.from_numpy(lopsided_psf(0.9).drawImage(nx=48, ny=48, scale=SCALE, dtype=float).array)
    return renderer.psf(MOFFAT, 0.6 + g, g, -g), renderer.psf_image(image)


@pytest.mark.parametrize("profile", ["gaussian", "exponential", "sersic"])
@pytest.mark.parametrize("grid", [Grid(64), Grid(64, 1.0, wings=2)])
def test_analytic_derivatives_are_the_automatic_ones(profile, grid):
    count = 3
    renderer = Renderer(profile, (24, 20), SCALE, grid, torch.float64)
    parameters = torch.from_numpy(draw_parameters(profile, count, seed=8)).requires_grad_()
    weights = torch.randn(count, 24, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for psf in psf_cases(renderer, count):
        images, derivatives = renderer.jacobian(parameters, psf)
        torch.testing.assert_close(images, renderer(parameters, psf))
        (automatic,) = torch.autograd.grad((weights * renderer(parameters, psf)).sum(), parameters)
        analytic = (weights[:, None] * derivatives).sum(dim=(2, 3))
        torch.testing.assert_close(analytic, automatic, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("profile", "outside"), [("gaussian", 1e-6), ("exponential", 1e-4), ("sersic", 2e-2)]
)
def test_the_score_is_that_of_the_derivatives(profile, outside):
    count, shape = 5, (44, 48)
    renderer = Renderer(profile, shape, SCALE, Grid(80), torch.float64)
    parameters = torch.from_numpy(draw_parameters(profile, count, seed=8))
    parameters[:, HLR].clamp_(max=0.5)  # so that little light is outside the stamp
    noise = torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for psf in psf_cases(renderer, count):
        expected, derivatives = renderer.jacobian(parameters, psf)
        images, information, score = renderer.score(parameters, psf, noise)
        torch.testing.assert_close(images, expected)
        torch.testing.assert_close(score, (derivatives * noise[:, None]).sum((2, 3)))
        exact = renderer.information(parameters, psf)
        size = exact.diagonal(dim1=1, dim2=2).sqrt()
        difference = (information - exact) / (size[:, :, None] * size[:, None, :])
        assert difference.abs().max() < outside


def test_gradients_flow_through_the_derivatives_too():
    renderer = Renderer("sersic", (12, 12), SCALE, Grid(32), torch.float64)
    psf = renderer.psf(MOFFAT, 0.7)
    parameters = torch.from_numpy(draw_parameters("sersic", 2, seed=9)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: renderer.jacobian(p, psf)[1][:, ::2, ::3, ::3], parameters)


def test_images_do_not_depend_on_the_batch():
    parameters = torch.from_numpy(draw_parameters("sersic", 150, seed=10))
    width = torch.linspace(0.6, 0.9, 150)
    renderer = Renderer("sersic", SHAPE, SCALE, Grid(80))
    images = renderer(parameters, renderer.psf(MOFFAT, width, 0.05))
    for index in (0, 77, 149):
        alone = renderer(parameters[index : index + 1], renderer.psf(MOFFAT, width[index], 0.05))
        torch.testing.assert_close(alone[0], images[index], rtol=1e-5, atol=1e-8)


def test_what_cannot_be_rendered_is_refused():
    renderer = Renderer("exponential", SHAPE, SCALE, Grid(64))
    with pytest.raises(ValueError, match=r"expected \(m, 6\)"):
        renderer(torch.zeros(2, 7), renderer.psf(GAUSSIAN, 0.6))
    with pytest.raises(ValueError, match="3 PSFs for 2 galaxies"):
        renderer(torch.zeros(2, 6), renderer.psf(GAUSSIAN, torch.ones(3)))
    with pytest.raises(ValueError, match="unknown PSF profile 'airy'; known: gaussian"):
        renderer.psf({"profile": "airy"}, 0.6)
    with pytest.raises(ValueError, match="beta > 1"):
        renderer.psf({"profile": "moffat", "beta": 1.0}, 0.6)
    with pytest.raises(ValueError, match="unknown profile 'devaucouleurs'"):
        parameter_names("devaucouleurs")


@pytest.mark.gpu
def test_a_gpu_renders_the_same():
    parameters = torch.from_numpy(draw_parameters("sersic", 200, seed=11))
    images = []
    for device in ("cpu", "cuda"):
        renderer = Renderer("sersic", SHAPE, SCALE, Grid(96), torch.float64, device)
        images.append(renderer(parameters.to(device), renderer.psf(MOFFAT, 0.7)).cpu())
    torch.testing.assert_close(*images, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_rendering_is_eight_times_as_fast_as_galsim():
    # Ratio of CPU times, taken in turn: one core each, whatever else the machine does.
    parameters = draw_parameters("exponential", 512, seed=12)
    psf = galsim.Gaussian(fwhm=0.6)
    renderer = Renderer("exponential", SHAPE, SCALE, Grid(96))
    transform = renderer.psf(GAUSSIAN, 0.6)
    tensor = torch.from_numpy(parameters).float()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ratios = []
    try:
        with torch.no_grad():
            for _ in range(5):
                start = time.process_time()
                for flux, x, y, hlr, g1, g2 in parameters:
                    round_galaxy = galsim.Exponential(half_light_radius=hlr, flux=flux)
                    scene = galsim.Convolve(round_galaxy.shear(g1=g1, g2=g2).shift(x, y), psf)
                    scene.drawImage(nx=48, ny=48, scale=SCALE, dtype=np.float32)
                theirs = time.process_time() - start
                start = time.process_time()
                for _ in range(4):
                    renderer(tensor, transform)
                ratios.append(theirs / ((time.process_time() - start) / 4))
    finally:
        torch.set_num_threads(threads)
    assert max(ratios) >= 8
