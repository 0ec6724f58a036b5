"""Encoders without labels: the loss, the measures of a collapse, the start of other networks, few labels."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from test_morphology import patterns

from shearbench.errors import ConfigError, ContractError
from shearbench.evaluation.contrastive import METHODS, draw_map, embeddings, label_curve
from shearbench.paper.tables import labels_tex
from shearbench.tasks.contrastive import embedding
from shearbench.tasks.contrastive.network import info_nce, start_from
from shearbench.tasks.morphology import labels as with_labels
from shearbench.tasks.morphology.options import ClassVariant, resolve_morphology
from shearbench.tasks.morphology.pretraining import EncoderTask, embed, load_encoder, train_encoder
from shearbench.tasks.morphology.train import ClassTask, load_classifier, save_classifier
from shearbench.training.task import Job
from shearbench.training.workers import Workers


def unit(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=-1)


def encoder(**training):
    given = {"batch_size": 16, "epochs": 2, "features": 6, "projection": [8, 4], "learning_rate": 5e-3}
    options = {"width": 4, "stages": 2, "pooling": "average", "hidden": []}
    section = resolve_morphology(
        {
            "simulation": {"size_pixels": 32},
            "contrastive": {
                "encoders": {"simclr": {"base": "convnet", "options": options}},
                "training": {**given, **training},
                "fine_tuning": {"epochs": 1, "batch_size": 16},
            },
        }
    )
    return section.contrastive.encoders["simclr"], section.contrastive.fine_tuning


def test_the_loss_is_that_of_its_formula():
    views = unit(2, 2, 5, 3)
    found = info_nce(views, 0.5)
    for k, own in enumerate(views):
        both = torch.cat([own[0], own[1]])
        each = []
        for i in range(10):
            others = [j for j in range(10) if j != i]
            weights = {j: math.exp(float(both[i] @ both[j]) / 0.5) for j in others}
            each.append(-math.log(weights[(i + 5) % 10] / sum(weights.values())))
        assert float(found[k]) == pytest.approx(np.mean(each))


def test_equal_embeddings_have_the_loss_of_a_guess():
    views = torch.ones(1, 2, 8, 4) / 2
    assert float(info_nce(views, 0.1)) == pytest.approx(math.log(15), rel=1e-5)


def test_the_rank_tells_a_collapse():
    spread, line = unit(500, 16), unit(500, 1) * unit(1, 16)
    point = torch.nn.functional.normalize(torch.ones(500, 16).double() + 1e-4 * unit(500, 16), dim=1)
    values = {
        name: embedding.singular_values(one)
        for name, one in (("spread", spread), ("line", line), ("point", point))
    }
    assert embedding.effective_rank(values["spread"]) == pytest.approx(16, rel=0.02)
    assert embedding.effective_rank(values["line"]) == pytest.approx(1, abs=1e-3)
    assert [embedding.collapsed(one) for one in values.values()] == [False, True, True]
    assert embedding.uniformity(point) == pytest.approx(0, abs=1e-3)
    assert embedding.uniformity(spread) < -3
    assert embedding.alignment(spread, spread) == 0
    assert embedding.alignment(spread, unit(500, 16, seed=1)) == pytest.approx(2, abs=0.1)
    assert embedding.effective_rank(torch.zeros(4)) == 0


def test_a_collapse_is_said():
    values = embedding.singular_values(unit(50, 1) * unit(1, 8))
    spectrum = pd.DataFrame({"output": "g", "singular_value": values})
    spectrum = spectrum.assign(effective_rank=embedding.effective_rank(values), collapsed=1)
    (said,) = with_labels.sentences(spectrum, "simclr seed 1")
    assert said.startswith("simclr seed 1: the effective rank of g is 1.0 of 8; the embedding has collapsed")
    (said,) = with_labels.sentences(spectrum.assign(collapsed=0), "simclr seed 1")
    assert "collapsed" not in said


def test_another_network_starts_from_all_weights_but_those_of_the_last_layer():
    variant, recipe = encoder()
    task = EncoderTask(patterns(40), patterns(20, 1), variant, "simclr")
    weights = task.network().state_dict()
    chosen = ClassVariant(architecture=variant.architecture, options=variant.options, training=recipe)
    given = ClassTask(patterns(40), patterns(20, 1), chosen, "small", weights)
    network = given.start([1], torch.device("cpu"), Workers()).networks[0]
    taken = {
        name
        for name, value in network.state_dict().items()
        if name in weights and value.shape == weights[name].shape and torch.equal(value, weights[name])
    }
    assert {name for name in weights if name.startswith("network.features")} <= taken
    assert {"mean", "spread"} <= taken
    assert not {name for name in taken if "head" in name}
    other = ClassVariant(architecture="convnet", options={**variant.options, "width": 6}, training=recipe)
    with pytest.raises(ConfigError, match="the encoder has another architecture: its weights features"):
        ClassTask(patterns(40), patterns(20, 1), other, "small", weights).start(
            [1], torch.device("cpu"), Workers()
        )
    plain = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    assert "it has weights 2.weight" in start_from(plain, {**plain.state_dict(), "2.weight": torch.zeros(1)})
    missing = {name: value for name, value in plain.state_dict().items() if name != "0.bias"}
    assert "the network has weights 0.bias" in start_from(plain, missing)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"augmentation": ["mixup"]}, "'mixup' mixes images, and a view must be of one"),
        ({"augmentation": []}, "without changes both views are equal"),
        ({"noise": 1e-3}, "noise: the training of an encoder has no such option"),
        ({"loss": "mse"}, "loss: found 'mse'"),
        ({"batch_size": 10**5}, "batch_size: 100000 is more than the"),
    ],
)
def test_a_bad_encoder_gets_a_clear_sentence(training, said):
    with pytest.raises(ConfigError, match=said) as found:
        encoder(**training)
    assert "morphology.contrastive" in str(found.value)


@pytest.mark.trains
def test_an_encoder_is_trained_and_read_and_worth_labels(tmp_path):
    train, validation, test = patterns(64), patterns(40, 1), patterns(40, 2)
    variant, recipe = encoder()
    content, history = train_encoder(train, validation, variant, "simclr", Job(seed=1))
    assert list(history)[-4:] == ["validation_loss", "alignment", "uniformity", "effective_rank"]
    assert np.isfinite(history).all(axis=None)
    save_classifier(tmp_path / "model.pt", content)
    network, about = load_encoder(tmp_path / "model.pt")
    assert about["epoch"] == history["epoch"][history["validation_loss"].idxmin()]
    features, projections = embed(network, test)
    assert features.shape == (40, 6)
    np.testing.assert_allclose(np.linalg.norm(projections, axis=1), 1, rtol=1e-5)
    with pytest.raises(ContractError, match="found 'shearbench encoder of images 1'"):
        load_classifier(tmp_path / "model.pt")

    table, spectrum = with_labels.describe_embedding(network, test)
    chosen = ClassVariant(architecture=variant.architecture, options=variant.options, training=recipe)
    found = with_labels.compare_labels(
        [train, validation, test], network, chosen, [0.25, 1.0], 5, Job(seed=1), tmp_path
    )
    assert found["labels"].tolist() == [16] * 5 + [64] * 5
    assert list(dict.fromkeys(found["method"])) == list(METHODS)
    assert found["accuracy"].between(0, 1).all()
    assert {path.name for path in tmp_path.glob("*_16.pt")} == {"scratch_16.pt", "fine_tuned_16.pt"}

    found, spectrum = (one.assign(encoder="simclr", seed=1) for one in (found, spectrum))
    measured = embeddings(history.assign(encoder="simclr", seed=1), spectrum.assign(epoch=about["epoch"]))
    assert measured["dimensions"].tolist() == [6, 4]
    assert (measured["effective_rank"] <= measured["dimensions"]).all()
    mapped = draw_map(table, test.classes)
    assert np.isfinite(mapped[["x", "y"]]).all(axis=None)
    assert mapped["name"].tolist() == [test.classes[k] for k in test.labels]


@pytest.mark.trains
def test_the_gradient_of_two_processes_is_that_of_one():
    """Each process has all embeddings of the batch, and the derivatives by its own."""
    variant, _ = encoder()
    task = EncoderTask(patterns(40), patterns(20, 1), variant, "simclr")
    objective = task.start([1], torch.device("cpu"), Workers())
    network = objective.networks[0].double().eval()
    batch = torch.rand(32, 3, 12, 12, dtype=torch.float64)
    objective.loss(network, (batch,), 0).backward()
    whole = [weight.grad.clone() for weight in network.parameters()]
    halves = [batch.unflatten(0, (2, 16))[:, rank::2].flatten(0, 1) for rank in range(2)]
    views = [network(half).detach().unflatten(0, (2, 8)) for half in halves]

    class Pair(Workers):
        def add(self, *tensors):
            (both,) = tensors
            both[:, :, 1 - self.rank :: 2] = views[1 - self.rank]

    network.zero_grad()
    for rank in range(2):
        objective.workers = Pair(rank, 2)
        objective.loss(network, (halves[rank],), 0).backward()
    for weight, expected in zip(network.parameters(), whole):
        torch.testing.assert_close(weight.grad, expected, rtol=1e-9, atol=1e-12)


def test_seeds_are_combined_and_compared_with_scratch():
    rows = [
        {
            "encoder": "e",
            "seed": seed,
            "share": 0.1,
            "labels": 42,
            "method": method,
            "accuracy": value + 0.01 * seed,
            "balanced_accuracy": value,
        }
        for seed in (1, 2, 3)
        for method, value in (("scratch", 0.7), ("probe_f", 0.8))
    ]
    curve = label_curve(pd.DataFrame(rows)).set_index("method")
    assert curve.loc["probe_f", "above_scratch"] == pytest.approx(0.1)
    assert curve.loc["probe_f", "above_scratch_error"] == pytest.approx(0)
    assert curve.loc["scratch", "accuracy_error"] == pytest.approx(0.01 / 3**0.5)
    alone = label_curve(pd.DataFrame(rows[:2]))
    assert alone["accuracy_error"].isna().all()
    text = labels_tex(label_curve(pd.DataFrame(rows)))
    assert "42 labels" in text
    assert "from scratch" in text
