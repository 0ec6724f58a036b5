"""Write the files and parts of documents that are generated from the code.

They are the JSON schema of the configuration, and the parts of the `PAGES` between the marks
``<!-- generated: name -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from shearbench.config.schema import Config, Observation
from shearbench.config.studies import read_study
from shearbench.estimators import estimator_kinds, estimator_presets
from shearbench.figures.catalogue import entries
from shearbench.frameworks.options import Frameworks
from shearbench.networks import architecture_kinds
from shearbench.simulation.populations import PRESETS
from shearbench.studies import Study
from shearbench.tasks.contrastive.options import ContrastiveRecipe, StampRecipe
from shearbench.tasks.morphology.options import Contrastive, ImageRecipe, Morphology
from shearbench.tools.structure import diagram
from shearbench.training.search import Dimension, Search
from shearbench.training.variants import variant_presets

_ROOT = Path(__file__).parents[3]
_MARK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def schema() -> str:
    """Return the JSON schema of the configuration, as text."""
    return json.dumps(Config.model_json_schema(), indent=1, sort_keys=True) + "\n"


def readme(text: str) -> str:
    """Return the text of a document with all its generated parts renewed.

    Parameters
    ----------
    text : str
        The document; each generated part is between two marks, see the docstring of this module.

    Raises
    ------
    KeyError
        There is no generated part of the name in a mark.
    """
    return _MARK.sub(lambda mark: f"{mark[1]}{_PARTS[mark[2]]()}{mark[3]}", text)


def _table(rows: Iterator[tuple[str, str, str]]) -> str:
    lines = [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in rows]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *lines]) + "\n"


def _options(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, meaning) of each option of a model and of the models inside it."""
    for name, field in model.model_fields.items():
        if name in getattr(model, "without", ()):
            continue
        key = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _options(field.annotation, f"{key}.")
            continue
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"`{_yaml(default)}`"
        allowed = _choices(field.annotation)
        meaning = (field.description or "").rstrip(".")
        yield key, shown, meaning + (f"; one of {', '.join(f'`{c}`' for c in allowed)}" if allowed else "")


def _own(recipe: type[ContrastiveRecipe], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, meaning) of the options of an encoder's training that differ from `Recipe`'s."""
    classes = [cls for cls in recipe.__mro__ if issubclass(cls, ContrastiveRecipe)]
    own = {name for cls in classes for name in inspect.get_annotations(cls)}
    return (option for option in _options(recipe, prefix) if option[0].removeprefix(prefix) in own)


def _of_contrast(prefix: str) -> Iterator[tuple[str, str, str]]:
    inner = tuple(f"{prefix}{name}." for name in ("training", "fine_tuning"))
    yield from (option for option in _options(Contrastive, prefix) if not option[0].startswith(inner))
    yield from _own(ImageRecipe, inner[0])


def _choices(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [choice for part in typing.get_args(annotation) for choice in _choices(part)]
    return []


def _yaml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _sections() -> str:
    from shearbench.simulation.populations import Population

    return (
        _table(_options(Config))
        + "\n### `populations.<name>`\n\n"
        + _table(_options(Population))
        + "\nPresets: "
        + ", ".join(f"`{name}`" for name in PRESETS)
        + ".\n"
        + "\n### `observations.<name>`\n\n"
        + _table(_options(Observation))
        + "\n### `morphology`\n\n"
        + _table(_options(Morphology, "morphology."))
        + "\n### `morphology.contrastive`\n\n"
        + "`training` has the options of `training` that apply, with these further or other ones; "
        + "`fine_tuning` those of `morphology.training`.\n\n"
        + _table(_of_contrast("morphology.contrastive."))
        + "\n### `encoders.<name>.training`\n\nThe options of `training` that apply, and:\n\n"
        + _table(_own(StampRecipe))
        + "\n### `frameworks`\n\n"
        + _table(_options(Frameworks, "frameworks."))
    )


def _estimators() -> str:
    parts = []
    for kind, cls in sorted(estimator_kinds().items()):
        presets = [f"`{name}`" for name, options in estimator_presets().items() if options["kind"] == kind]
        parts.append(f"### {kind}: {', '.join(presets)}\n\n{_summary(cls)}\n\n{_table(_options(cls))}")
    return "\n".join(parts)


def _architectures() -> str:
    parts = []
    presets = variant_presets()
    for kind, cls in sorted(architecture_kinds().items()):
        names = [f"`{name}`" for name, preset in presets.items() if preset["architecture"] == kind]
        parts.append(
            f"### {kind}: {', '.join(names)}\n\n{_summary(cls)}\n\n{_table(_options(cls, 'options.'))}"
        )
    return "\n".join(parts)


def _studies() -> str:
    return _table(_options(Study))


def _searches() -> str:
    return (
        _table(_options(Search))
        + "\nOf a range in `space`:\n\n"
        + _table(option for option in _options(Dimension) if option[0] != "values")
    )


def _study_files() -> str:
    paths = sorted((_ROOT / "config/studies").glob("*.yaml"))
    return "".join(f"- `{study.name}`: {study.question}\n" for study in map(read_study, paths))


def _figures() -> str:
    lines = ["| figure | category | one figure for each | data, in `metrics/` |", "|---|---|---|---|"]
    for name, entry in entries().items():
        data = ", ".join(f"`{file}`" for file in (*entry.reads, *entry.reads_if_made))
        lines.append(f"| `{name}` | {entry.category} | {entry.each} | {data.replace('{study}', '<study>')} |")
    return "\n".join(lines) + "\n"


def _rooms() -> str:
    return f"```mermaid\n{diagram()}```\n"


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


_PARTS = {
    "options": _sections,
    "estimators": _estimators,
    "architectures": _architectures,
    "studies": _studies,
    "study_files": _study_files,
    "searches": _searches,
    "figures": _figures,
    "rooms": _rooms,
}

PAGES = ("config/README.md", "docs/architecture.md", "results/README.md")
"""The documents that have generated parts."""


def main() -> None:
    """Write the schema and the generated parts of the documents into this checkout."""
    (_ROOT / "workflow/schemas/config.schema.json").write_text(schema(), encoding="utf-8")
    for page in (_ROOT / name for name in PAGES):
        page.write_text(readme(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
