"""A trained network in one file that travels: with its population, noise range and calibration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pandas as pd

from shearbench.errors import ShearbenchError
from shearbench.files.origin import Origin
from shearbench.tasks.shear.model_file import RULE, TrainedNetwork, load_model
from shearbench.training.checkpoint import load, save

_ADDED = ("population_options", "noise", "calibration", "simulated")


def pack(
    path: str | os.PathLike[str],
    population: Mapping[str, Any],
    noise: tuple[float, float],
    simulated: pd.DataFrame,
    shear_bias: pd.DataFrame,
    expected: Origin | None = None,
) -> dict[str, Any]:
    """Return the content of a model file with all that measures the stamps of others.

    It is a model file too: `load_model` reads it.

    Parameters
    ----------
    path : path-like
        The model file.
    population : mapping
        Options of the population.
    noise : (float, float)
        Lowest and highest noise level of the training.
    simulated : pandas.DataFrame
        Properties of simulated galaxies (`shearbench.measurement.own_stamps.simulated_properties`).
    shear_bias : pandas.DataFrame
        ``metrics/shear_bias.csv``; the rows of the network are kept.
    expected : Origin, optional
        The origin that the model file must have.

    Returns
    -------
    dict
        The content of the model file, with ``population_options``, ``noise``, ``calibration`` and
        ``simulated``.

    Raises
    ------
    ContractError
        See `load_model`.
    """
    about = load_model(path, expected=expected).about
    own = shear_bias["seed"] == about["seed"]
    for column, name in (("population", "population"), ("estimator", "variant")):
        own &= shear_bias[column] == about[name]
    return {
        **load(path, RULE, expected),
        "population_options": dict(population),
        "noise": tuple(noise),
        "calibration": _plain(shear_bias[own]),
        "simulated": _plain(simulated),
    }


def save_packed(path: str | os.PathLike[str], content: dict[str, Any], origin: Origin | None = None) -> None:
    """Write the content that `pack` returns, completely or not at all."""
    save(path, content, origin)


def load_packed(path: str | os.PathLike[str]) -> tuple[TrainedNetwork, pd.DataFrame, pd.DataFrame]:
    """Read a packed network.

    Returns
    -------
    model : TrainedNetwork
        ``about`` has ``population_options`` and ``noise`` too.
    simulated : pandas.DataFrame
    shear_bias : pandas.DataFrame

    Raises
    ------
    ContractError
        See `load_model`.
    ShearbenchError
        It is a model file without its population.
    """
    model = load_model(path)
    missing = [name for name in _ADDED if name not in model.about]
    if missing:
        raise ShearbenchError(
            f"{path}: it is a model without {', '.join(missing)}; give a file of `snakemake networks`, which "
            "has these beside the weights"
        )
    return model, pd.DataFrame(model.about["simulated"]), pd.DataFrame(model.about["calibration"])


def _plain(table: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): values.tolist() for name, values in table.items()}
