"""Maps of the inside of networks, the table of their stages, and the figures that show both."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import convolve
from simulated import make_split

from shearbench.diagnostics import flow as gradient_flow
from shearbench.diagnostics.flow import Batch
from shearbench.diagnostics.galaxies import Galaxies, Split
from shearbench.diagnostics.layers import LAYER_COLUMNS, informations, table_of_layers
from shearbench.diagnostics.maps import answer_gradients, measure_maps
from shearbench.diagnostics.probes import Parts, probe
from shearbench.diagnostics.stages import exact_copy, find_stages
from shearbench.diagnostics.summary import summarise_networks
from shearbench.errors import ContractError
from shearbench.evaluation.inside_maps import read_inside, write_inside
from shearbench.figures import (
    inside_features,
    inside_flow,
    inside_gradients,
    inside_layers,
    inside_weights,
    kernels,
    style,
)
from shearbench.networks.attention import Attention
from shearbench.networks.shearnet import ShearNet
from shearbench.networks.whitened import Whitened
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.shear.model_file import TrainedNetwork
from shearbench.tasks.shear.network import ShearNetwork

SIDE, SCALE, SIGMAS = 16, 0.4, [1e-5, 1e-2]
NETWORKS = {
    "shearnet": ShearNet(width=4, hidden=16),
    "attention": Attention(patch=4, width=16, depth=1, heads=2, hidden=[16], symmetrise="test"),
    "whitened": Whitened(components=32, width=16, blocks=1, auxiliary=True),
}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    counts = {"train": 60, "validation": 30, "test": 30}
    return {
        name: Split(*make_split(tmp_path_factory.mktemp(name), name, count, side=SIDE, scale=SCALE))
        for name, count in counts.items()
    }


@pytest.fixture(scope="module")
def models(splits):
    stamps, catalog = splits["train"]
    images, psf = (torch.from_numpy(part) for part in stamps.noiseless())
    found = {}
    for name, architecture in NETWORKS.items():
        torch.manual_seed(1)
        network = ShearNetwork(architecture, (SIDE, SIDE), SCALE, False)
        columns = ["flux", "dx", "dy", "hlr", "g1", "g2"] if architecture.auxiliary else ["g1", "g2"]
        truth = torch.from_numpy(catalog[columns].to_numpy("float32", copy=True))
        network.fit_scaling(images, psf, truth)
        about = {
            "architecture": architecture.kind,
            "options": architecture.model_dump(mode="json"),
            "shape": (SIDE, SIDE),
            "per_galaxy_psf": False,
            "pixel_scale": SCALE,
            "population": "exp_gauss",
            "variant": name,
            "seed": 1,
        }
        found[name] = TrainedNetwork(network.eval(), about)
    return found


@pytest.fixture(scope="module")
def made(models, splits):
    galaxies = Galaxies.of(splits["test"], 3)
    population = Population(**PRESETS["exp_gauss"])
    return {
        name: measure_maps(model, splits["test"], galaxies, population, SIGMAS, 1)
        for name, model in models.items()
    }


@pytest.fixture(scope="module")
def layers(models, splits):
    galaxies = Galaxies.of(splits["test"], 1)
    return {name: table_of_layers(model, galaxies, splits, [1e-2], 60, 1) for name, model in models.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_of_stages_is_whole(name, layers):
    table = layers[name]
    assert table.columns.tolist() == LAYER_COLUMNS
    exact = table[table["precision"] == "exact"]
    for _, one in exact.groupby("noise"):
        assert one["place"].tolist() == list(range(len(one)))
        assert one["layer"].iloc[0] == "pixels"
        assert one["information"].iloc[0] == 1
        if NETWORKS[name].symmetrise == "never":
            assert (one["information"].diff().iloc[1:] < 1e-3).all()
        read = one[["linear_shape", "kernel_shape", "linear_flux", "linear_size"]]
        turned = (name == "whitened") & one["layer"].str.startswith("network")
        assert (read[~turned] > 0).all(axis=None)
        assert read[turned].isna().all(axis=None)
    rounded = table[table["precision"] == "bfloat16"].set_index(["noise", "layer"])
    whole = exact.set_index(["noise", "layer"]).loc[rounded.index]
    known = rounded["information"].notna()
    assert known.any()
    assert (rounded["information"] <= whole["information"] + 1e-6)[known].all()


@pytest.mark.parametrize("enough", [0.3, 0.99])
def test_a_stage_holds_no_less_than_after_rounding(models, splits, monkeypatch, enough):
    """Also where it is not computed, because a later stage holds enough."""
    monkeypatch.setattr("shearbench.diagnostics.layers._ENOUGH", enough)
    network, sigma = models["attention"].network, 1e-2
    images, psf = (torch.from_numpy(part) for part in splits["test"].stamps.noiseless(0, 4))
    stages = find_stages(network, images, psf, torch.tensor(sigma))
    found = informations(exact_copy(network), stages, Galaxies.of(splits["test"], 3), sigma)
    held = [found[stage.layer, "exact"]["information"] for stage in stages]
    assert held == sorted(held, reverse=True)
    rounded = [(layer, row) for (layer, precision), row in found.items() if precision != "exact"]
    assert all(row["information"] <= found[layer, "exact"]["information"] + 1e-6 for layer, row in rounded)


def test_probes_read_functions_of_the_numbers():
    generator = torch.Generator().manual_seed(1)
    numbers = Parts(*(torch.randn(count, 5, generator=generator) for count in (200, 100, 100)))
    linear = torch.tensor([1.0, 2, 0, 0, 0])
    targets = Parts(*(torch.stack([part @ linear, (part @ linear).sin()], 1) for part in numbers))
    found = probe(numbers, targets)
    error = {how: (value - targets.judge).square().mean(0).sqrt() for how, value in found.items()}
    assert error["linear"][0] < 1e-4
    assert error["kernel"][1] < 0.7 * error["linear"][1]
    constant = probe(Parts(*(0 * part for part in numbers)), targets)
    assert torch.equal(constant["linear"][0], constant["kernel"][-1])


def test_the_weights_of_an_optimal_network_overlap_wholly(splits, models, monkeypatch):
    galaxies = Galaxies.of(splits["test"], 2)
    flat = galaxies.slopes.flatten(2)
    weights = (torch.linalg.inv(flat @ flat.mT) @ flat)[:, 4:]

    def optimal(network, galaxies, sigma):
        return -3 * weights.unflatten(2, (SIDE, SIDE))

    monkeypatch.setattr("shearbench.diagnostics.maps.answer_gradients", optimal)
    population = Population(**PRESETS["exp_gauss"])
    _, table = measure_maps(models["shearnet"], splits["test"], galaxies, population, SIGMAS, 1)
    assert table["overlap_g1"].to_numpy() == pytest.approx(-1)
    assert table["overlap_g2"].to_numpy() == pytest.approx(-1)


def test_gradients_of_the_answer_are_differences(splits, models):
    galaxies = Galaxies.of(splits["test"], 2)
    network = exact_copy(models["shearnet"].network)
    gradient = answer_gradients(network, galaxies, 1e-2)
    sigma = torch.tensor(1e-2, dtype=torch.float64)
    step = 1e-7 * galaxies.slopes[:, 0]
    ahead, back = (network(galaxies.images + s * step, galaxies.psf, sigma).shapes for s in (1, -1))
    assert ((ahead - back) / 2).numpy() == pytest.approx(
        (gradient * step[:, None]).sum((2, 3)).numpy(), rel=1e-3
    )


def test_maps_are_written_and_read(made, tmp_path):
    write_inside(tmp_path / "maps.h5", [maps for maps, _ in made.values()])
    again = read_inside(tmp_path / "maps.h5")
    assert [one.variant for one in again] == list(NETWORKS)
    for one, (maps, _) in zip(again, made.values(), strict=True):
        assert np.array_equal(one.filters, maps.filters)
        for name in ("arrays", "features", "exciting", "attention"):
            mine, its = getattr(one, name), getattr(maps, name)
            assert list(mine) == list(its)
            assert all(np.array_equal(mine[key], its[key]) for key in its)
    first, second, third = again
    assert first.filters.shape[1:] == (3, 3)
    assert third.filters.shape[1:] == (SIDE, SIDE)
    assert not third.features
    assert list(second.attention)
    assert np.isfinite(made["attention"][1]["attention"]).all()
    (tmp_path / "bad.h5").write_bytes(b"no file of maps")
    with pytest.raises(ContractError, match="maps"):
        read_inside(tmp_path / "bad.h5")


def test_figures_are_drawn(made, layers, models, splits, tmp_path):
    write_inside(tmp_path / "maps.h5", [maps for maps, _ in made.values()])
    overlap = pd.concat([table for _, table in made.values()])
    networks, listed = summarise_networks(NETWORKS, {"exp_gauss": 1}, (SIDE, SIDE), SCALE)
    table = pd.concat(list(layers.values()))
    batch = Batch.of(splits["test"], 6, SIGMAS, 1, ("g1", "g2"))
    flow, curvature = (
        table(models["shearnet"], batch)
        for table in (gradient_flow.table_of_layers, gradient_flow.table_of_curvature)
    )
    history = pd.DataFrame(
        {
            "epoch": [1, 2],
            "views": [100, 200],
            "gradient_norm": [5.0, 0.5],
            "gradient of body.one": [3.0, 0.0],
            "gradient of body.two": [4.0, 0.5],
        }
    )
    gradients = pd.concat(
        gradient_flow.table_of_gradients(models[name], history).assign(variant=name) for name in NETWORKS
    )
    assert gradients["layer"].tolist()[:2] == ["one", "two"]
    assert gradients["gradient"].tolist()[:4] == [3.0, 4.0, 0.0, 0.5]
    figures = {
        "layers": inside_layers.draw(networks, listed, table, "exp_gauss"),
        "weights": inside_weights.draw(tmp_path / "maps.h5", overlap, "exp_gauss"),
        "flow": inside_flow.draw(flow, curvature, "exp_gauss"),
        "gradients": inside_gradients.draw(gradients, "exp_gauss"),
        **{name: inside_features.draw(tmp_path / "maps.h5", f"exp_gauss_{name}") for name in NETWORKS},
    }
    for name, figure in figures.items():
        assert figure.get_figwidth() == pytest.approx(style.DOUBLE)
        with style.context():
            figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    titles = [axis.get_title(loc="left") for axis in figures["layers"].axes[::2]]
    assert [title.partition(":")[0] for title in titles] == list(NETWORKS)
    # Each stage has a box and the shape of its output.
    for axis, name in zip(figures["layers"].axes[::2], NETWORKS, strict=True):
        assert len(axis.patches) == len(axis.get_xticklabels()) == layers[name]["place"].nunique()


def test_kernels_respond_to_what_they_are_for():
    made = kernels.patterns(24)
    flat = {
        name: np.abs(convolve(made["gradient"] * 0 + 1, kernel)) for name, kernel in kernels.KERNELS.items()
    }
    assert {name: round(float(image.max()), 12) for name, image in flat.items()} == {
        "edge": 0,
        "blur": 1,
        "sharpen": 1,
        "ridge": 0,
    }
    step = convolve(made["edge"], kernels.KERNELS["edge"], mode="nearest")
    assert set(np.abs(step).argmax(1)) <= {11, 12}
    assert np.abs(convolve(made["gradient"], kernels.KERNELS["ridge"])[2:-2, 2:-2]).max() < 1e-12
