"""Measurements inside the trained networks of a study: a table for each kind of `Study.inside`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import pandas as pd

from shearbench.diagnostics.batches import BATCH_COLUMNS, Judged, table_of_batches
from shearbench.diagnostics.cost import COSTS, costs
from shearbench.diagnostics.curves import CURVE_COLUMNS, table_of_curves
from shearbench.diagnostics.flow import FLOW_COLUMNS, STRETCHES, Batch, table_of_layers
from shearbench.diagnostics.galaxies import Split
from shearbench.diagnostics.shifts import SHIFT_COLUMNS, Shifted, table_of_shifts
from shearbench.tasks.shear.model_file import TrainedNetwork

_STAMPS, _SHIFTED, _JUDGED = 60, 32, 512  # galaxies for gradients, shifts and batches
_OF_FIRST_SEED = ("curves", "cost")
_Models = Sequence[TrainedNetwork]
_Measure = Callable[[_Models, Split, Sequence[float], int], Iterable[pd.DataFrame]]


def _flow(models: _Models, split: Split, sigmas: Sequence[float], seed: int) -> Iterator[pd.DataFrame]:
    for model in models:
        batch = Batch.of(split, _STAMPS, sigmas, seed, model.network.targets)
        yield table_of_layers(model, batch, jacobians=False)


def _curves(models: _Models, split: Split, sigmas: Sequence[float], seed: int) -> Iterator[pd.DataFrame]:
    return (table_of_curves(model, split) for model in models)


def _cost(models: _Models, split: Split, sigmas: Sequence[float], seed: int) -> Iterator[pd.DataFrame]:
    return (pd.DataFrame([found]) for found in costs(models, split.stamps, seed))


def _shifts(models: _Models, split: Split, sigmas: Sequence[float], seed: int) -> Iterator[pd.DataFrame]:
    galaxies = Shifted.of(split, _SHIFTED)
    for model in models:
        yield pd.concat([table_of_shifts(model, galaxies, sigma) for sigma in sigmas])


def _batches(models: _Models, split: Split, sigmas: Sequence[float], seed: int) -> Iterator[pd.DataFrame]:
    judged = Judged.of(split, _JUDGED, sigmas, seed)
    return (table_of_batches(model, judged) for model in models)


_KINDS: dict[str, tuple[_Measure, Sequence[str]]] = {
    "flow": (_flow, [name for name in FLOW_COLUMNS if name not in STRETCHES]),
    "curves": (_curves, CURVE_COLUMNS),
    "cost": (_cost, COSTS),
    "shifts": (_shifts, SHIFT_COLUMNS),
    "batches": (_batches, BATCH_COLUMNS),
}


def measure_inside(
    kind: str,
    study: str,
    models: Mapping[str, Sequence[TrainedNetwork]],
    split: Split,
    sigmas: Sequence[float],
    seed: int,
) -> pd.DataFrame:
    """Measure the trained networks of a study.

    Parameters
    ----------
    kind : {'flow', 'curves', 'cost', 'shifts', 'batches'}
        See `shearbench.diagnostics.flow.table_of_layers`, `shearbench.diagnostics.curves.table_of_curves` and
        `shearbench.diagnostics.cost.costs`, both of the first seed,
        `shearbench.diagnostics.shifts.table_of_shifts` and `shearbench.diagnostics.batches.table_of_batches`.
    study : str
        Its name.
    models : mapping of str to sequence of TrainedNetwork
        For each value of the study, its networks, a seed each. Those that diverged are left out.
    split : Split
        The test split.
    sigmas : sequence of float
        Noise levels.
    seed : int
        The run's seed, which determines the noise.

    Returns
    -------
    pandas.DataFrame
        The rows of all networks, after the columns ``study`` and ``value``.
    """
    measure, columns = _KINDS[kind]
    chosen = [
        (value, model)
        for value, trained in models.items()
        for model in [one for one in trained if not one.about["diverged"]][
            : 1 if kind in _OF_FIRST_SEED else None
        ]
    ]
    tables = [
        found.assign(study=study, value=value)
        for (value, _), found in zip(
            chosen, measure([model for _, model in chosen], split, sigmas, seed), strict=True
        )
    ]
    named = ["study", "value", *(name for name in columns if name != "population")]
    return pd.concat(tables, ignore_index=True)[named] if tables else pd.DataFrame(columns=named)
