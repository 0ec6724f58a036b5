"""The summary of a network before its training, and its diagram."""

from itertools import pairwise

import pandas as pd
import pytest
import torch
from torch import nn

from shearbench.diagnostics.summary import (
    LAYER_COLUMNS,
    NETWORK_COLUMNS,
    kept_for_gradient,
    listing,
    receptive_field,
    summarise,
    summarise_networks,
    trace,
)
from shearbench.figures import networks as figure_of_networks
from shearbench.figures import style
from shearbench.networks.attention import Attention
from shearbench.networks.convnet import ConvNet
from shearbench.networks.equivariant import Equivariant
from shearbench.networks.modules import convolution, dihedral, heads
from shearbench.networks.modules.bodies import ImageBody
from shearbench.networks.psf_branch import PsfBranch
from shearbench.networks.residual import Residual
from shearbench.networks.shearnet import ShearNet
from shearbench.networks.terms import LEVELS
from shearbench.networks.unet import UNet
from shearbench.paper.tables import networks_tex

SHAPE = (24, 24)
ZOO = {
    "pooled": ConvNet(),
    "cbam": ConvNet(attention="cbam", normalisation="batch", dropout=0.1),
    "squeeze": ConvNet(attention="channel"),
    "scales": ConvNet(attention="self", scales="all"),
    "residual": Residual(),
    "unet": UNet(normalisation="group"),
    "two": PsfBranch(),
    "cross": PsfBranch(psf="attention"),
    "attention": Attention(),
    "equivariant": Equivariant(blocks=1, normalisation="layer"),
    "published": ShearNet(symmetrise="test"),
}


@pytest.fixture(autouse=True)
def _own_random_state():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def body_of(*steps, side=24):
    network = heads.WithHead(nn.Sequential(*steps), 1, (side, side), [4], 2, "gelu")
    return ImageBody(network, (side, side), False, True)


def conv(kernel, **options):
    return nn.Conv2d(1, 1, kernel, padding=options.get("dilation", 1) * (kernel // 2), **options)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([conv(3)], 3),
        ([conv(7)], 7),
        ([conv(3), nn.GELU(), conv(3), nn.GELU(), conv(3)], 7),
        ([conv(3, dilation=3)], 7),
        ([conv(3), nn.AvgPool2d(2), conv(3)], 8),
        ([conv(3), nn.MaxPool2d(2), conv(3)], 8),
        ([conv(3, stride=2), conv(3)], 7),
        ([nn.PixelUnshuffle(4), nn.Conv2d(16, 1, 1)], 4),
        ([nn.Conv2d(1, 1, 1)], 1),
        ([convolution.Skip(conv(5))], 5),
        ([conv(3), nn.GroupNorm(1, 1)], 24),  # its mean is over the whole stamp
        ([conv(15), conv(15)], 24),  # it ends at the edges
    ],
)
def test_receptive_fields_of_networks_known_by_heart(steps, expected):
    assert receptive_field(body_of(*steps), SHAPE) == expected


def test_receptive_field_of_the_published_network():
    # 3, pooled 4, 3x3 on pixels two apart 8, pooled 10.
    assert summarise(ShearNet(), 1, (48, 48), 0.2)[0]["receptive_field"] == 10


def test_flops_and_layers_of_a_network_counted_by_hand():
    body = body_of(nn.Conv2d(1, 3, 3, padding=1), nn.GELU(), nn.AvgPool2d(2))
    table, flops = trace(body, SHAPE)
    assert table["kind"].tolist() == ["Conv2d", "GELU", "AvgPool2d", "Linear", "GELU", "Linear"]
    assert table["shape"].tolist() == ["3x24x24", "3x24x24", "3x12x12", "4", "4", "2"]
    assert table["part"].tolist() == ["features"] * 3 + ["head"] * 3
    inputs = 3 * 144 + LEVELS
    assert table["flops"].tolist() == [2 * 9 * 3 * 576, 0, 0, 2 * inputs * 4, 0, 2 * 4 * 2]
    assert flops == table["flops"].sum()
    assert table["parameters"].tolist() == [30, 0, 0, (inputs + 1) * 4, 0, 10]


def test_memory_grows_with_what_a_layer_keeps():
    images = 24 * 24 * 4
    one = kept_for_gradient(body_of(conv(3), nn.ReLU()), SHAPE)
    two = kept_for_gradient(body_of(conv(3), nn.ReLU(), conv(3), nn.ReLU()), SHAPE)
    # A convolution keeps its input, which is what the ReLU before it kept already: one image more.
    assert two - one == pytest.approx(images, rel=0.01)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_parameter_and_product_is_in_some_layer(name, channels):
    numbers, table = summarise(ZOO[name], channels, SHAPE, 0.3)
    assert table["parameters"].sum() == numbers["parameters"]
    times = dihedral.ORDER if ZOO[name].symmetrise != "never" else 1
    assert table["flops"].sum() * times == numbers["flops"] > 0
    assert 1 <= numbers["receptive_field"] <= 24
    assert numbers["training_kb"] > 0
    assert numbers["parameters"] == sum(
        weight.numel() for weight in ZOO[name].build(channels, SHAPE, 2).parameters()
    )
    again, same = summarise(ZOO[name], channels, SHAPE, 0.3)
    assert again == numbers
    pd.testing.assert_frame_equal(same, table)


@pytest.fixture(scope="module")
def tables():
    return summarise_networks(ZOO, {"exp_gauss": 1, "sersic_moffat": 2}, SHAPE, 0.3)


def test_tables_have_a_row_for_each_network_and_layer(tables):
    networks, table = tables
    assert networks.columns.tolist() == NETWORK_COLUMNS
    assert table.columns.tolist() == LAYER_COLUMNS
    assert len(networks) == 2 * len(ZOO)
    counts = table.groupby(["population", "variant"]).size()
    for row in networks.to_dict("records"):
        assert counts[row["population"], row["variant"]] == row["layers"]
    branches = table[table["variant"] == "two"].groupby("population")["part"].unique()
    assert set(branches["exp_gauss"]) == {"features", "head"}
    assert set(branches["sersic_moffat"]) == {"features", "psf", "head"}
    text = listing(networks, table)
    for name in ZOO:
        assert f"{name} (" in text


def test_blocks_say_what_goes_round_them(tables):
    table = tables[1]
    chosen = table[table["population"] == "exp_gauss"]
    residual = chosen[chosen["variant"] == "residual"]
    assert residual["added"].str.split().str.len().max() == 1
    assert residual.loc[residual["added"] != "", "added"].nunique() == 6
    unet = chosen[chosen["variant"] == "unet"]
    assert unet["beside"].str.split().str.len().max() == 2
    assert unet.loc[unet["beside"] != "", "kind"].iloc[0] == "AvgPool2d"


def test_no_networks_make_empty_tables():
    networks, table = summarise_networks({}, {"exp_gauss": 1}, SHAPE, 0.3)
    assert networks.empty
    assert table.empty
    assert networks.columns.tolist() == NETWORK_COLUMNS
    assert listing(networks, table) == "no networks\n"
    assert r"\begin{longtable}" in networks_tex(networks)


def test_the_table_says_whether_there_is_a_psf_and_what_sees_all(tables):
    tex = networks_tex(tables[0])
    assert r"one PSF: \texttt{exp\_gauss}" in tex
    assert r"a PSF for each galaxy: \texttt{sersic\_moffat}" in tex
    (line,) = [line for line in tex.splitlines() if line.startswith("attention &")][:1]
    assert "& all &" in line


def read_back(tables, tmp_path):
    for name, table in zip(("networks", "layers"), tables):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    return (pd.read_csv(tmp_path / f"{name}.csv") for name in ("networks", "layers"))


def test_the_figure_shows_every_network_with_its_numbers(tables, tmp_path):
    figure = figure_of_networks.draw(*read_back(tables, tmp_path))
    assert figure.get_figwidth() == pytest.approx(style.DOUBLE)
    diagram, parameters, flops, view = figure.axes
    assert [label.get_text() for label in diagram.get_yticklabels()] == list(ZOO)
    assert "sersic_moffat" in diagram.get_xlabel()
    assert "pixels" in view.get_xlabel()
    drawn = tables[0][tables[0]["population"] == "sersic_moffat"]
    texts = [text.get_text() for text in view.texts]
    assert texts == [str(value) for value in drawn["receptive_field"]]
    for axis, column in ((parameters, "parameters"), (flops, "flops")):
        points = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"]
        assert points == drawn[column].tolist()
    found = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    assert {"convolution", "group convolution", "attention", "dense", "input added"} <= found
    # Every layer drawn is inside the axes, and no two of a track overlap.
    (low, high), numbers = diagram.get_xlim(), [patch.get_bbox() for patch in diagram.patches]
    assert all(low < box.x0 < box.x1 < high for box in numbers)
    rows = {}
    for box in numbers:
        rows.setdefault(round((box.y0 + box.y1) / 2, 3), []).append((box.x0, box.x1))
    for spans in rows.values():
        spans = sorted(spans)
        assert all(a[1] < b[0] for a, b in pairwise(spans))


def test_one_network_of_unknown_layers_is_drawn(tmp_path):
    networks, table = summarise_networks({"pooled": ConvNet()}, {"exp_gauss": 1}, SHAPE, 0.3)
    table.loc[0, "kind"] = "Wavelets"
    style.save(figure_of_networks.draw(networks, table), tmp_path / "a.pdf", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("value", "said"), [(999, "999"), (999.6, "1k"), (166402, "166k"), (11318272, "11.3M"), (2e9, "2G")]
)
def test_numbers_are_short(value, said):
    assert figure_of_networks.short(value) == said
