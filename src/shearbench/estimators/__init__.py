"""The options of shear estimators other than networks: one file each; a new file adds an estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shearbench.estimators.base import Estimator
from shearbench.options import discover, library


def estimator_kinds() -> dict[str, type[Estimator]]:
    """Return all estimator classes, by their kind."""
    return discover(__name__, Estimator)


def estimator_presets() -> dict[str, dict[str, Any]]:
    """Return the names of estimators that a configuration may use directly, with their kinds and options."""
    return {name: {"kind": kind, **options} for name, (kind, options) in library(estimator_kinds()).items()}


def make_estimator(options: Mapping[str, Any]) -> Estimator:
    """Return an estimator made from its options.

    Parameters
    ----------
    options : mapping
        All options that differ from the defaults, and ``kind``.

    Raises
    ------
    KeyError
        The kind is unknown.
    pydantic.ValidationError
        An option is unknown or has an invalid value.
    """
    given = {key: value for key, value in options.items() if key not in ("base", "kind")}
    return estimator_kinds()[options["kind"]](**given)
