"""Reader of the files in ``metrics/``, which knows the columns that contain text."""

from __future__ import annotations

import os

import pandas as pd

from shearbench.files.origin import Origin
from shearbench.files.tables import read_table
from shearbench.files.text import read_csv

TEXT = frozenset(
    "population estimator label kind variant architecture calibration property study value stage name "
    "layer part shape added beside precision reference outcome when statistics network "
    "told trained_on quantity column encoder method output state option curve".split()
)
"""Columns with text in all tables of metrics; the other columns contain numbers."""


def read_metrics(path: str | os.PathLike[str], expected: Origin | None = None) -> pd.DataFrame:
    """Read a table of metrics; names such as ``None``, ``NA`` or ``1`` stay text.

    Parameters
    ----------
    path : path-like
        Such as ``metrics/accuracy.csv`` or ``metrics/residuals.parquet``.
    expected : Origin, optional
        Expected origin of the file.

    Raises
    ------
    ContractError
        The file was changed or damaged, has another origin, or is not a table.
    OSError
        The file cannot be read.
    """
    if str(path).endswith(".parquet"):
        return read_table(path, (), "evaluate_residuals", expected=expected)
    return read_csv(path, TEXT, expected)
