"""Measurements inside the trained networks of a study: a table for each kind of `Study.inside`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from shearbench.diagnostics.batches import BATCH_COLUMNS, Judged, table_of_batches
from shearbench.diagnostics.cost import COSTS, cost
from shearbench.diagnostics.flow import FLOW_COLUMNS, STRETCHES, Batch, table_of_layers
from shearbench.diagnostics.galaxies import Split
from shearbench.diagnostics.shifts import SHIFT_COLUMNS, Shifted, table_of_shifts
from shearbench.tasks.shear.model_file import TrainedNetwork

_STAMPS, _SHIFTED, _JUDGED = 60, 32, 512  # galaxies for gradients, shifts and batches
_Measure = Callable[[TrainedNetwork], pd.DataFrame]


def _flow(split: Split, sigmas: Sequence[float], seed: int) -> _Measure:
    return lambda model: table_of_layers(
        model, Batch.of(split, _STAMPS, sigmas, seed, model.network.targets), jacobians=False
    )


def _cost(split: Split, sigmas: Sequence[float], seed: int) -> _Measure:
    return lambda model: pd.DataFrame([cost(model, split.stamps, seed)])


def _shifts(split: Split, sigmas: Sequence[float], seed: int) -> _Measure:
    galaxies = Shifted.of(split, _SHIFTED)
    return lambda model: pd.concat([table_of_shifts(model, galaxies, sigma) for sigma in sigmas])


def _batches(split: Split, sigmas: Sequence[float], seed: int) -> _Measure:
    judged = Judged.of(split, _JUDGED, sigmas, seed)
    return lambda model: table_of_batches(model, judged)


_KINDS: dict[str, tuple[Callable[[Split, Sequence[float], int], _Measure], Sequence[str]]] = {
    "flow": (_flow, [name for name in FLOW_COLUMNS if name not in STRETCHES]),
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
    kind : {'flow', 'cost', 'shifts', 'batches'}
        See `shearbench.diagnostics.flow.table_of_layers`, `shearbench.diagnostics.cost.cost` (of the first
        seed), `shearbench.diagnostics.shifts.table_of_shifts` and
        `shearbench.diagnostics.batches.table_of_batches`.
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
    prepare, columns = _KINDS[kind]
    measure = prepare(split, sigmas, seed)
    tables = []
    for value, trained in models.items():
        good = [model for model in trained if not model.about["diverged"]]
        for model in good[: 1 if kind == "cost" else None]:
            tables.append(measure(model).assign(study=study, value=value))
    named = ["study", "value", *(name for name in columns if name != "population")]
    return pd.concat(tables, ignore_index=True)[named] if tables else pd.DataFrame(columns=named)
