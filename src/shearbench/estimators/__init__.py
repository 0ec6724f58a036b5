"""Shear estimators other than networks: one file each, and a new file is a new estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shearbench.estimators.base import Estimator
from shearbench.options import discover, library


def estimator_kinds() -> dict[str, type[Estimator]]:
    """Return the estimator classes there are, by their kind."""
    return discover(__name__, Estimator)


def estimator_presets() -> dict[str, dict[str, Any]]:
    """Return every name an estimator may be given at once, with its options and its kind."""
    return {name: {"kind": kind, **options} for name, (kind, options) in library(estimator_kinds()).items()}


def make_estimator(options: Mapping[str, Any]) -> Estimator:
    """Return an estimator from its resolved options, which name its ``kind``."""
    given = {key: value for key, value in options.items() if key not in ("base", "kind")}
    return estimator_kinds()[options["kind"]](**given)
