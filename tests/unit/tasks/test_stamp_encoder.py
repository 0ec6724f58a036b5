"""Encoders of stamps, and shear networks that start from them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from simulated import make_splits

from shearbench.config.plain_yaml import read_file
from shearbench.config.reading import resolve
from shearbench.config.studies import Studies
from shearbench.errors import ConfigError, ContractError
from shearbench.options import merge
from shearbench.plan.digests import Digests
from shearbench.plan.run import Run
from shearbench.simulation.populations import PRESETS, Population
from shearbench.tasks.contrastive.network import start_from
from shearbench.tasks.contrastive.options import StampEncoder, StampRecipe
from shearbench.tasks.shear import pretraining
from shearbench.tasks.shear.data import Splits
from shearbench.tasks.shear.train import ShearTask
from shearbench.training.checkpoint import save
from shearbench.training.recipe import Recipe
from shearbench.training.task import Job
from shearbench.training.variants import resolve_network, resolve_variant
from shearbench.training.workers import Workers

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
VARYING = next(name for name, one in PRESETS.items() if "psf" in one and not Population(**one).psf.constant)
GIVEN = {"options": {"width": 4, "stages": 2, "hidden": [8]}}


def encoder(base="strided", options=None, **training):
    changes = {"epochs": 1, "batch_size": 16, "features": 6, "projection": [8, 4], "noise": [1e-4, 1e-2]}
    kind, chosen, *_ = resolve_network(
        "e", {"base": base, "options": GIVEN["options"] if options is None else options}, "e"
    )
    recipe = StampRecipe(**{**changes, **training})
    return StampEncoder(architecture=kind, options=chosen, training=recipe)


def population(name):
    return Population(**PRESETS[name])


@pytest.mark.trains
def test_a_shear_network_starts_from_an_encoder_of_its_stamps(tmp_path):
    splits = make_splits(tmp_path, 48, 24)
    model, history = pretraining.train_encoder(
        *splits[:2], encoder(), population("exp_gauss"), "contrast", Job(seed=1)
    )
    assert list(history)[-4:] == ["validation_loss", "alignment", "uniformity", "effective_rank"]
    save(tmp_path / "model.pt", model)
    weights = pretraining.encoder_weights(tmp_path / "model.pt")

    entry = {"base": "strided", **GIVEN, "training": {"batch_size": 16, "start_from": "contrast"}}
    variant = resolve_variant("tiny", entry, Recipe())
    task = ShearTask.of(Splits(*splits), variant, population("exp_gauss"), "tiny")
    found, plain = (
        replace(task, weights=given).start([1], CPU, Workers()).networks[0] for given in (weights, None)
    )
    layers = found.body.network.state_dict()
    *inner, last_weight, last_bias = layers
    assert all(torch.equal(layers[name], weights[name]) for name in inner)
    for name in (last_weight, last_bias):
        assert torch.equal(layers[name], plain.body.network.state_dict()[name])
        assert layers[name].shape[0] == 2
    assert torch.equal(found.mean, plain.mean)

    other = {name: value[..., :1] for name, value in weights.items()}
    with pytest.raises(ConfigError, match=r"variants.tiny: training.start_from: the encoder has another"):
        replace(task, weights=other).start([1], CPU, Workers())
    save(tmp_path / "model.pt", {**model, "format": "another"})
    with pytest.raises(ContractError, match="found 'another'"):
        pretraining.encoder_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["exp_gauss", VARYING])
def test_views_have_new_noise_and_keep_the_shape(tmp_path, name):
    train, validation, *_ = make_splits(tmp_path, 16, 4, name)
    task = pretraining.EncoderTask(
        train, validation, encoder(augmentation=["d4"], noise=1e-6), population(name), "e"
    )
    objective = task.start([1], CPU, Workers())
    objective.start_epoch(0)
    images, psf, sigma = objective.draw(slice(0, 16), 0, torch.Generator())
    assert images.shape == psf.shape == (32, *train.shape)
    assert (sigma == 1e-6).all()
    one, other = images.unflatten(0, (2, 16))
    # Both views are turned alike, and differ by the noise alone.
    assert 0.5e-6 < float((one - other).std() / 2**0.5) < 2e-6
    vectors = objective.networks[0].eval()(images, psf, sigma)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(32))


def test_every_architecture_of_images_can_start_from_its_encoder():
    for base in ("shearnet", "resnet", "attention", "equivariant", "dense", "unet", "psf-branch"):
        chosen = encoder(base, {})
        assert chosen.objection() is None
        architecture = chosen.make()
        own = architecture.body((48, 48), False, architecture.targets, 2).network
        made = architecture.body((48, 48), False, architecture.targets, 6).network
        assert start_from(own, made.state_dict()) is None
        last = list(dict(own.named_parameters()))[-1].rpartition(".")[0]
        same = [
            torch.equal(value, made.state_dict()[name])
            for name, value in own.state_dict().items()
            if not name.startswith(f"{last}.")
        ]
        assert same
        assert all(same)


def resolved(changes):
    return resolve(merge(read_file(ROOT / "config/config.yaml"), changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "start_from: there is no encoder 'contrast'; the section encoders has none"),
        ({"encoders": {"contras": {"base": "pooled"}}}, "did you mean 'contras'"),
        (
            {"encoders": {"contrast": {"base": "resnet"}}},
            "the encoder 'contrast' has the architecture 'resnet', and this network 'convnet'; give both",
        ),
        (
            {"encoders": {"contrast": {"base": "pooled", "options": {"width": 4}}}},
            "the encoder 'contrast' has options.width 4, and this network 8",
        ),
        (
            {"encoders": {"contrast": {"base": "refined"}}},
            "encoders.contrast: the architecture 'refined' has a",
        ),
        (
            {"encoders": {"contrast": {"base": "poled"}}},
            "encoders.contrast.base: there is no network 'poled'",
        ),
        (
            {"encoders": {"contrast": {"base": "pooled", "training": {"galaxies": 9}}}},
            "encoders.contrast.training.galaxies: the training of an encoder has no such option",
        ),
    ],
)
def test_a_start_that_does_not_fit_gets_a_clear_sentence(changes, said):
    network = {"variants": {"mine": {"base": "pooled", "training": {"start_from": "contrast"}}}}
    with pytest.raises(ConfigError, match=said):
        resolved({**network, **changes})


def test_a_new_encoder_trains_the_networks_that_start_from_it(monkeypatch):
    monkeypatch.setattr(Digests, "code", lambda *_: "")

    def digests(**training):
        entry = {"base": "pooled", "training": {"start_from": "contrast"}}
        encoders = {"contrast": {"base": "pooled", "training": training}}
        config = resolved({"encoders": encoders, "variants": {"mine": entry, "plain": {"base": "pooled"}}})
        return Digests(Run(config, Studies({}, {}, {}, {})), ROOT / "scripts", lambda name: [])

    first, second = digests(), digests(temperature=0.5)
    run = first.run
    assert first.train("exp_gauss", "mine") != second.train("exp_gauss", "mine")
    assert first.train("exp_gauss", "plain") == second.train("exp_gauss", "plain")
    path = f"{run.folder}/encoders/models/exp_gauss/contrast/seed1/model.pt"
    assert run.encoders_of("exp_gauss", [("mine", 1), ("mine", 1), ("plain", 1)]) == [path]
    assert run.training("exp_gauss", "mine", 1)["encoder"] == path
    assert first.origin(path).depends == first.pretrain("exp_gauss", "contrast")
    assert first.origin(path.replace("contrast", "other")) is None
