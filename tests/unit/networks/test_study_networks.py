"""The networks of studies have the sizes that their files promise."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from shearbench.config.reading import DEFAULT, load
from shearbench.config.studies import read_study, study_variants
from shearbench.diagnostics.summary import summarise
from shearbench.networks.base import Architecture

ROOT = Path(__file__).parents[3]
SHAPE = (48, 48)


def networks_of(study: str) -> dict[str, Architecture]:
    """Return the architectures of a study by the labels of its values."""
    found = read_study(ROOT / f"config/studies/{study}.yaml")
    variants = study_variants(found, load(ROOT / DEFAULT))
    return {label: variant.make() for label, variant in variants.items()}


@pytest.fixture(scope="module")
def numbers():
    """Return the properties of all networks of a study, measured once."""
    measured: dict[str, dict[str, dict[str, float]]] = {}

    def of(study):
        if study not in measured:
            measured[study] = {
                label: summarise(architecture, 1, SHAPE, 0.2)[0]
                for label, architecture in networks_of(study).items()
            }
        return measured[study]

    return of


def ratios(properties, key):
    first, *others = (found[key] for found in properties.values())
    return [other / first for other in others]


@pytest.mark.parametrize(
    ("study", "left_out"),
    [
        ("depth", ()),
        ("kernel", ()),
        ("downsampling", ()),
        ("weight_sharing", ("locally connected, weights shared",)),
    ],
)
def test_parameters_are_equal(numbers, study, left_out):
    found = {label: found for label, found in numbers(study).items() if label not in left_out}
    for ratio in ratios(found, "parameters"):
        assert abs(ratio - 1) < 0.05


@pytest.mark.parametrize(("study", "tolerance"), [("depth", 0.05), ("kernel", 0.2)])
def test_operations_are_equal(numbers, study, tolerance):
    for ratio in ratios(numbers(study), "flops"):
        assert abs(ratio - 1) < tolerance


def test_receptive_fields_grow_with_depth_as_its_file_says(numbers):
    for label, found in numbers("depth").items():
        assert found["receptive_field"] == min(48, 8 * int(label[0]) + 4)


def test_the_dense_layers_take_as_many_numbers():
    for study in ("downsampling", "depth", "kernel"):
        for label, architecture in networks_of(study).items():
            head = architecture.build(1, SHAPE, 2).head
            assert head[0].in_features == 288 + 2, (study, label)


def test_shared_weights_change_the_number_of_weights_only(numbers):
    local, shared = (
        networks_of("weight_sharing")[label].build(1, SHAPE, 2)
        for label in ("locally connected", "locally connected, weights shared")
    )
    assert [layer.weight.shape for layer in local.head if isinstance(layer, nn.Linear)] == [
        layer.weight.shape for layer in shared.head if isinstance(layer, nn.Linear)
    ]
    found = numbers("weight_sharing")
    assert found["locally connected"]["flops"] == found["locally connected, weights shared"]["flops"]
    assert found["locally connected, weights shared"]["parameters"] < found["locally connected"]["parameters"]


def test_shortcuts_are_compared_at_each_depth():
    labels = list(networks_of("shortcuts"))
    for kind in ("plain", "A", "B", "C"):
        for depth, architecture in (
            (int(label.split()[0]), network)
            for label, network in networks_of("shortcuts").items()
            if label.endswith(f", {kind}")
        ):
            convolutions = [
                layer
                for layer in architecture.build(1, SHAPE, 2).features.modules()
                if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
            ]
            assert len(convolutions) == depth + 1  # and the first one, before the blocks
    assert len(labels) == 16
