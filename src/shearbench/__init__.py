"""shearbench: a reproducible benchmark of weak-lensing shear estimators."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shearbench.api.networks import load_classifier as load_classifier
    from shearbench.api.networks import load_network as load_network
    from shearbench.api.runs import load_run as load_run

__version__ = "0.1.0"

_INTERACTIVE = {
    "load_classifier": ".api.networks",
    "load_network": ".api.networks",
    "load_run": ".api.runs",
}


def __getattr__(name: str) -> Any:
    # Imported at the first use, because planning a run and starting its jobs need none of it.
    if name in _INTERACTIVE:
        return getattr(importlib.import_module(_INTERACTIVE[name], __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return ["__doc__", "__version__", *_INTERACTIVE]
