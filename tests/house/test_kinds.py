"""Every kind that the package discovers keeps its contract.

It can be made from its defaults, it and its options are described, and the documents list it.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from shearbench.config.reading import DEFAULT, load
from shearbench.config.schema import Config, Observation
from shearbench.config.studies import read_study, study_variants
from shearbench.estimators import estimator_kinds, estimator_presets, make_estimator
from shearbench.figures.catalogue import entries
from shearbench.frameworks.options import Checkpoint, Frameworks
from shearbench.networks import architecture_kinds
from shearbench.simulation.populations import PRESETS, Population
from shearbench.studies import Study
from shearbench.tasks.morphology.options import Morphology
from shearbench.training.recipe import Recipe
from shearbench.training.search import Dimension, Search
from shearbench.training.variants import Searched, Variant, VariantEntry, resolve_variant, variant_presets

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = (ROOT / "config/README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "results/README.md").read_text(encoding="utf-8")
STUDIES = sorted((ROOT / "config/studies").glob("*.yaml"))
FIGURES = sorted(path.stem for path in (ROOT / "src/shearbench/figures").glob("[!_]*.py"))


def undescribed(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Yield the options without a description, of a model and of the models inside it."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from undescribed(inner, f"{path}{name}.")
        elif not field.description:
            yield f"{path}{name}"


def presets_in_heading(kind: str) -> set[str]:
    """Return the names of presets in the heading of a kind in config/README.md."""
    (heading,) = re.findall(rf"^### {re.escape(kind)}: (.*)$", CONFIGURATIONS, re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", heading))


def first_line(of: object) -> str:
    """Return the first line of a docstring, which must be a sentence."""
    line = (of.__doc__ or "").strip().partition("\n")[0]
    assert line.endswith((".", ":")), line
    return line


@pytest.mark.parametrize(
    "model",
    [
        Config,
        Observation,
        Recipe,
        Variant,
        VariantEntry,
        Searched,
        Study,
        Search,
        Dimension,
        Population,
        Morphology,
        Frameworks,
        Checkpoint,
    ],
)
def test_every_option_of_a_configuration_has_a_description(model):
    assert list(undescribed(model)) == []


@pytest.mark.parametrize("kind", architecture_kinds())
def test_architecture(kind):
    cls = architecture_kinds()[kind]
    network = cls()
    assert cls.kind == kind
    assert list(undescribed(cls)) == []
    assert f"\n{first_line(cls)}\n" in CONFIGURATIONS
    assert type(network).__module__ in network.modules()


@pytest.mark.parametrize("name", variant_presets())
def test_network_preset(name):
    variant = resolve_variant(name, {}, Recipe())
    assert variant.make().kind == variant.architecture
    assert name in presets_in_heading(variant.architecture)


@pytest.mark.parametrize("kind", estimator_kinds())
def test_estimator(kind):
    cls = estimator_kinds()[kind]
    assert cls.kind == kind
    assert list(undescribed(cls)) == []
    assert f"\n{first_line(cls)}\n" in CONFIGURATIONS
    assert type(cls()).__module__ in cls().modules()


@pytest.mark.parametrize("name", estimator_presets())
def test_estimator_preset(name):
    estimator = make_estimator(estimator_presets()[name])
    assert name in presets_in_heading(estimator.kind)


@pytest.mark.parametrize("name", PRESETS)
def test_population_preset(name):
    options = dict(PRESETS[name])
    if options.get("profile", "").startswith("cosmos"):
        options["catalogue_file"] = "catalogue.fits"  # these profiles have no default for it
    if name == "superbit":
        options |= {"catalogue_file": "catalogue.fits", "psf": {**options["psf"], "psfex_files": "model.psf"}}
    Population(**options)
    (listed,) = re.findall(r"^Presets: (.*)$", CONFIGURATIONS, re.MULTILINE)
    assert f"`{name}`" in listed


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study(path, monkeypatch):
    """It fits the default run, or the configuration in the command of its first line."""
    monkeypatch.chdir(ROOT)
    command = path.read_text(encoding="utf-8").partition("\n")[0]
    assert re.fullmatch(rf"# snakemake .*\bstudy_{path.stem}", command)
    config = load(DEFAULT, *re.findall(r"--configfile (\S+)", command))
    study = read_study(path)
    assert len(study_variants(study, config)) == len(study.values)
    assert study.question.endswith("?")
    assert study.belief is not None, "what people say about it: belief"
    assert study.belief.endswith((".", "!"))
    assert study.source is not None, "where they say it: source"
    assert study.expects, "what the belief says of the values: expects"
    assert f"\n- `{study.name}`: {study.question}\n" in CONFIGURATIONS


@pytest.mark.parametrize("name", entries())
def test_figure(name):
    entry = entries()[name]
    assert re.match(r"[\dA-Z]\. \S", entry.category)
    assert entry.caption.endswith(".")
    assert entry.reads
    draw = importlib.import_module(f"shearbench.figures.{name}").draw
    assert first_line(draw)
    assert len(inspect.signature(draw).parameters) >= len(entry.reads)
    assert f"\n| `{name}` | {entry.category} |" in RESULTS


def test_every_module_that_draws_a_figure_has_an_entry():
    drawing = {
        name for name in FIGURES if hasattr(importlib.import_module(f"shearbench.figures.{name}"), "draw")
    }
    assert drawing == set(entries())
