"""The tables of metrics as files: one reader that knows which of their columns hold text."""

from __future__ import annotations

import os

import pandas as pd

from shearbench.files.origin import Origin
from shearbench.files.tables import read_table
from shearbench.files.text import read_csv

TEXT = frozenset(
    "population estimator label kind variant architecture calibration property study value stage name "
    "layer part shape added beside".split()
)
"""The columns of `ACCURACY`, `TRENDS` and all other tables that hold text; the others hold numbers."""


def read_metrics(path: str | os.PathLike[str], expected: Origin | None = None) -> pd.DataFrame:
    """Read a table of metrics, with names as text whatever they look like (``None``, ``NA``, ``1``).

    Parameters
    ----------
    path : path-like
        Such as ``metrics/accuracy.csv`` or ``metrics/residuals.parquet``.
    expected : Origin, optional
        What the file must be.

    Raises
    ------
    ContractError
        It is not as it was written, of another origin, or no table.
    OSError
        It cannot be read.
    """
    if str(path).endswith(".parquet"):
        return read_table(path, (), "evaluate_residuals", expected=expected)
    return read_csv(path, TEXT, expected)
