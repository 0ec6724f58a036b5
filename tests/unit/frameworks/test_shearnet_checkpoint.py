"""Checkpoints of ShearNet: written here as ShearNet writes them, with Flax and Orbax."""

import sys

import numpy as np
import pytest

from shearbench.errors import ShearbenchError
from shearbench.frameworks.shearnet_checkpoint import NORMALIZER, network_of, read_checkpoint, shapes_of

SHAPE = (13, 13)


def layers_of(**shapes):
    rng = np.random.default_rng(1)
    return {
        name: {
            "kernel": rng.normal(size=shape).astype("f4") / 5,
            "bias": rng.normal(size=shape[-1:]).astype("f4"),
        }
        for name, shape in shapes.items()
    }


CNN = {"Conv_0": (3, 3, 1, 4), "Conv_1": (3, 3, 4, 8), "Dense_0": (3 * 3 * 8, 6), "Dense_1": (6, 2)}
MLP = {"Dense_0": (169, 5), "Dense_1": (5, 4), "Dense_2": (4, 2)}


def test_the_published_networks_are_recognised_and_others_refused():
    images = np.random.default_rng(2).normal(size=(3, *SHAPE))
    assert network_of(layers_of(**CNN), SHAPE)(images).shape == (3, 2)
    assert network_of(layers_of(**MLP), SHAPE)(images).shape == (3, 2)
    with pytest.raises(ShearbenchError, match=r"another size than 16 by 16 pixels; set stamps.size_pixels"):
        network_of(layers_of(**CNN), (16, 16))
    with pytest.raises(ShearbenchError, match=r"another size"):
        network_of(layers_of(**MLP), (12, 12))
    # As in a checkpoint of an early version.
    with pytest.raises(
        ShearbenchError, match=r"Conv_0 have 13 input channels.* galaxies of a batch for rows"
    ):
        network_of(layers_of(**{**CNN, "Conv_0": (3, 3, 13, 4), "Dense_2": (2, 2)}), SHAPE)
    with pytest.raises(ShearbenchError, match=r"its layers are Conv_0 .* only ShearNet's `cnn`"):
        network_of(layers_of(Conv_0=(3, 3, 1, 4), Dense_0=(6, 2)), SHAPE)
    with pytest.raises(ShearbenchError, match=r"which is not ShearNet's `cnn`"):
        network_of(layers_of(**{**CNN, "Conv_1": (5, 5, 4, 8)}), SHAPE)


def test_a_checkpoint_gives_what_flax_computes(tmp_path):
    linen = pytest.importorskip("flax.linen")
    pytest.importorskip("orbax.checkpoint")
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    from flax.training import checkpoints, train_state

    class Small(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = x[..., None]
            for width in (4, 8):
                x = linen.relu(linen.Conv(width, (3, 3), padding="SAME")(x))
                x = linen.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
            x = linen.relu(linen.Dense(6)(x.reshape((len(x), -1))))
            return linen.Dense(2)(x)

    model, images = Small(), np.random.default_rng(2).normal(size=(3, *SHAPE)).astype("f4")
    trained = {"params": layers_of(**CNN)}
    state = train_state.TrainState.create(apply_fn=model.apply, params=trained, tx=optax.adam(1e-3))
    checkpoints.save_checkpoint(str(tmp_path), state, step=7, prefix="cnn", overwrite=True)
    folder = tmp_path / "cnn7"
    assert sorted(read_checkpoint(folder)) == sorted(CNN)
    assert sys.modules["absl.logging"].get_absl_handler().python_handler.stream is sys.__stderr__
    expected = np.asarray(model.apply(jax.tree.map(jax.numpy.asarray, trained), images))
    assert shapes_of(folder, SHAPE)(images) == pytest.approx(expected, abs=1e-5)
    np.savez(folder / NORMALIZER, mean=np.array([0.5, -0.5]), std=np.array([2.0, 3.0]))
    assert shapes_of(folder, SHAPE)(images) == pytest.approx(expected * [2, 3] + [0.5, -0.5], abs=1e-5)
    with pytest.raises(ShearbenchError, match=r"no file _METADATA.*name the folder"):
        read_checkpoint(tmp_path)
    next(iter((folder / "ocdbt.process_0").glob("d/*"))).write_bytes(b"")
    (folder / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(ShearbenchError, match=r"cnn7: Orbax cannot read this checkpoint"):
        read_checkpoint(folder)
