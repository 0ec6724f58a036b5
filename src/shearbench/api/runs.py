"""A finished run: its tables as pandas, its figures as matplotlib, its networks as functions of arrays."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shearbench.config.reading import load
from shearbench.config.schema import Config
from shearbench.config.studies import Studies, read_study
from shearbench.errors import ShearbenchError, nearest
from shearbench.evaluation.metrics import read_metrics
from shearbench.figures.catalogue import Entry
from shearbench.plan.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from shearbench.api.networks import Classifier, Network

_CHECKOUT = Path(__file__).parents[3]
_CLASSIFIER = "models/{classifier}/seed{seed}/model.pt"


class FinishedRun:
    """A run whose files are in a folder, which is only read.

    Each table of ``metrics/`` is an attribute: ``run.accuracy`` is ``metrics/accuracy.csv``.

    Parameters
    ----------
    folder : path-like
        Such as ``results/quick``, or a copy of it under any name.

    Attributes
    ----------
    folder : Path
    config : Config
        The resolved configuration.
    plan : Run
        Names and files of the run, as the workflow knows them.

    Raises
    ------
    ShearbenchError
        There is no run in the folder.
    ConfigError
        Its ``config.yaml`` was written by another version of shearbench, or changed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not (self.folder / "config.yaml").is_file():
            raise ShearbenchError(f"{self.folder}: there is no run in this folder (no config.yaml)")
        self.config: Config = load(self.folder / "config.yaml")
        self.plan = Run(self.config, Studies({}, {}, {}, {}))

    def __repr__(self) -> str:
        return (
            f"<Run {self.config.run} in {self.folder}: {len(self.tables)} tables, "
            f"{len(self.figures)} figures, {len(self.trained)} networks>"
        )

    def path(self, planned: str) -> Path:
        """Return where a file of the run is, from its path in the workflow (``results/<run>/...``)."""
        return self.folder / Path(planned).relative_to(self.plan.folder)

    # Tables

    @property
    def tables(self) -> list[str]:
        """The names of the tables; those of studies begin with ``studies/``."""
        metrics = self.folder / "metrics"
        found = (path for end in ("csv", "parquet") for path in metrics.rglob(f"[!.]*.{end}"))
        return sorted(path.relative_to(metrics).with_suffix("").as_posix() for path in found)

    def table(self, name: str) -> pd.DataFrame:
        """Return a table of ``metrics/`` by its name without suffix, such as ``studies/downsampling``.

        Raises
        ------
        ShearbenchError
            The run has no table of this name.
        ContractError
            The file was changed or damaged.
        """
        if name not in self.tables:
            raise ShearbenchError(
                f"{self.folder}: no table '{name}'{nearest(name, self.tables)}; see .tables"
            )
        csv = self.folder / "metrics" / f"{name}.csv"
        return read_metrics(csv if csv.is_file() else csv.with_suffix(".parquet"))

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name.startswith("_") or name not in self.tables:
            raise AttributeError(
                f"this run has no table or attribute '{name}'"
                + ("" if name.startswith("_") else nearest(name, self.tables))
            )
        return self.table(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in self.tables if name.isidentifier())})

    # Figures

    @property
    def figures(self) -> dict[str, list[str]]:
        """The figures that can be drawn from the tables of this run.

        For each, the populations, networks (``<population>_<variant>``), observations, studies or searches
        that it can be drawn for; empty if one figure shows the whole run.
        """
        found: dict[str, list[str]] = {}
        many = {"study": self._studies(), "search": self._searches()}
        for name, entry in self.plan.entries.items():
            if entry.each in many:
                found[name] = [case for case in many[entry.each] if self._has(entry, case)]
            elif self._has(entry):
                planned = self.plan.figures.get(name)
                found[name] = planned.populations if planned else []
        return {
            name: cases for name, cases in found.items() if cases or self.plan.entries[name].each not in many
        }

    def figure(self, name: str, of: str | None = None) -> Figure:
        """Draw a figure from the tables of the run.

        Parameters
        ----------
        name : str
            Such as ``accuracy``; see `figures`.
        of : str, optional
            The population, network, observation or study that it shows, if there is one figure for each. By
            default the only one.

        Returns
        -------
        matplotlib.figure.Figure
            In the style of the run's own figures; it may be changed further.

        Raises
        ------
        ShearbenchError
            The run has no such figure, or `of` is missing or unknown.
        ContractError
            A table was changed or damaged.
        """
        figures = self.figures
        if name not in figures:
            raise ShearbenchError(f"{self.folder}: no figure '{name}'{nearest(name, figures)}; see .figures")
        cases = figures[name]
        of = cases[0] if of is None and len(cases) == 1 else of
        if cases and of not in cases:
            raise ShearbenchError(
                f"figure '{name}': of: found {of!r}{nearest(str(of), cases)}, expected one of "
                f"{', '.join(cases)}"
            )
        entry = self.plan.entries[name]
        extra = [of] if cases else []
        if entry.each == "search":
            extra = []
        if entry.each == "study":
            extra = [self._question(str(of)), of]
        draw = importlib.import_module(f"shearbench.figures.{name}").draw
        return draw(*map(self._source, self._sources(entry, of)), *extra)

    def _sources(self, entry: Entry, of: str | None = None) -> list[Path]:
        metrics = self.folder / "metrics"
        optional = [name for name in entry.reads_if_made if (metrics / name).is_file()]
        return [metrics / name.format(study=of, search=of) for name in (*entry.reads, *optional)]

    def _has(self, entry: Entry, of: str | None = None) -> bool:
        return all(path.is_file() for path in self._sources(entry, of))

    def _source(self, path: Path) -> Any:
        # A figure reads an HDF5 file itself.
        return str(path) if path.suffix == ".h5" else read_metrics(path)

    def _studies(self) -> list[str]:
        ends = "_verdict.txt"
        return sorted(p.name.removesuffix(ends) for p in self.folder.glob(f"metrics/studies/[!.]*{ends}"))

    def _searches(self) -> list[str]:
        return sorted(path.parent.name for path in self.folder.glob("metrics/searches/*/trials.csv"))

    def _question(self, study: str) -> str:
        for folder in (self.folder, _CHECKOUT / "config", Path("config")):
            if (path := folder / "studies" / f"{study}.yaml").is_file():
                return read_study(path).question
        raise ShearbenchError(
            f"{study}.yaml: the file with the question of this study is neither in {self.folder}/studies nor "
            "in config/studies"
        )

    # Networks

    @property
    def trained(self) -> list[tuple[str, str, int]]:
        """The trained networks of the run, as (population, variant, seed)."""
        return [which for which in self.plan.models if self.path(self.plan.model_of(*which)).is_file()]

    def network(self, variant: str, population: str | None = None, seed: int | None = None) -> Network:
        """Return a trained network, which is called with arrays.

        Parameters
        ----------
        variant : str
            Its name in the configuration, such as ``refined``.
        population : str, optional
            The population on which it was trained; by default the first of the run.
        seed : int, optional
            The seed of its training; by default the first of the run.

        Returns
        -------
        Network

        Raises
        ------
        ShearbenchError
            The run has no such network.
        ContractError
            The file of the network is damaged.
        """
        population = self.plan.populations[0] if population is None else population
        seed = self.config.seeds[0] if seed is None else seed
        if (population, variant, seed) not in self.trained:
            known = ", ".join(f"{v} (population {p}, seed {s})" for p, v, s in self.trained) or "none"
            raise ShearbenchError(
                f"{self.folder}: no trained network {variant} (population {population}, seed {seed}); it has "
                f"{known}"
            )
        # torch takes seconds to import, and tables and figures do not need it.
        from shearbench.api.networks import load_network

        return load_network(self.path(self.plan.model_of(population, variant, seed)))

    @property
    def trained_classifiers(self) -> list[tuple[str, int]]:
        """The trained classifiers by morphology of the run, as (variant, seed)."""
        return list(self._classifiers())

    def _classifiers(self) -> dict[tuple[str, int], Path]:
        """Return the files of the trained classifiers."""
        planned = map(self.path, self.plan.of_classifiers(_CLASSIFIER))
        return {
            which: path for which, path in zip(self.plan.classifiers, planned, strict=True) if path.is_file()
        }

    def classifier(self, variant: str, seed: int | None = None) -> Classifier:
        """Return a trained classifier by morphology, which is called with images.

        Parameters
        ----------
        variant : str
            Its name in the section ``morphology`` of the configuration, such as ``small-cnn``.
        seed : int, optional
            The seed of its training; by default the first.

        Returns
        -------
        Classifier

        Raises
        ------
        ShearbenchError
            The run has no such classifier.
        ContractError
            The file of the classifier is damaged.
        """
        trained = self._classifiers()
        path = next((trained[v, s] for v, s in trained if v == variant and seed in (None, s)), None)
        if path is None:
            known = ", ".join(f"{v} (seed {s})" for v, s in trained) or "none"
            raise ShearbenchError(
                f"{self.folder}: no trained classifier {variant}"
                + ("" if seed is None else f" (seed {seed})")
                + f"; it has {known}"
            )
        from shearbench.api.networks import load_classifier  # torch, as above

        return load_classifier(path)


def load_run(folder: str | os.PathLike[str]) -> FinishedRun:
    """Open the folder of a finished run, such as ``results/quick``; see `FinishedRun`."""
    return FinishedRun(folder)
