"""A search of hyper-parameters: its options, and the variant that each trial trains.

Importing this module does not import Optuna, which `shearbench.training.trials` runs the trials with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Annotated, Any

from pydantic import Field, model_validator

from shearbench.options import Name, Options, Seed, merge, shown
from shearbench.training.recipe import Recipe
from shearbench.training.variants import Variant, resolve_variant

_KEY = r"^(options|training)(\.[A-Za-z_]\w*)+$"
Key = Annotated[str, Field(pattern=_KEY, max_length=200)]
Number = Annotated[int, Field(ge=-(10**15), le=10**15)] | Annotated[float, Field(ge=-1e30, le=1e30)]
Step = Annotated[int, Field(ge=1, le=10**15)] | Annotated[float, Field(gt=0, le=1e30)]
Values = Mapping[str, Any]
"""The value of each key of the space, such as ``{"training.learning_rate": 2e-3}``."""


class Dimension(Options):
    """The values that a search may give to one option: a range, or a list of choices."""

    low: Number | None = Field(None, description="Lowest value of a range.")
    high: Number | None = Field(
        None, description="Highest value. If `low`, `high` and `step` are whole numbers, so are the values."
    )
    log: bool = Field(False, description="Whether the range is searched evenly in the logarithm.")
    step: Step | None = Field(
        None, description="Distance of the values of a range; null: 1 for whole numbers, else any value."
    )
    values: tuple[Any, ...] | None = Field(
        None, description="The choices, instead of a range. In a file, the list alone means the same."
    )

    @model_validator(mode="before")
    @classmethod
    def _list(cls, given: Any) -> Any:
        return {"values": given} if isinstance(given, (list, tuple)) else given

    @model_validator(mode="after")
    def _checked(self) -> Dimension:
        if self.values is not None:
            if self.log or (self.low, self.high, self.step) != (None, None, None):
                raise ValueError("values: a list of choices has no range; give values alone, or low and high")
            if len(self.choices) < 2 or len(self.choices) < len(self.values):
                raise ValueError(
                    f"values: found {shown(list(self.values))}, expected two or more different choices"
                )
            return self
        if self.low is None or self.high is None:
            raise ValueError("low: a range needs low and high; for choices, write a list")
        if self.low >= self.high:
            raise ValueError(f"low: found {self.low:g}, expected less than high, which is {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log: a range in the logarithm has a low above zero, and no step")
        if self.step is not None:
            steps = (self.high - self.low) / self.step
            if abs(steps - round(steps)) > 1e-9 * steps:
                raise ValueError(f"step: {self.step:g} does not divide high minus low")
        return self

    @property
    def whole(self) -> bool:
        """Whether the values of the range are whole numbers."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    @property
    def choices(self) -> dict[str | int | float | bool | None, Any]:
        """The choices, by their labels in the record of a trial."""
        return {self.label(one): one for one in self.values or ()}

    def label(self, value: Any) -> Any:
        """Return the label of a value in the record of a trial: itself, or the JSON text of a list."""
        plain = value is None or isinstance(value, (str, int, float)) or self.values is None
        return value if plain else json.dumps(value)

    @property
    def ends(self) -> list[Any]:
        """All choices, or both ends of the range."""
        return [self.low, self.high] if self.values is None else list(self.values)

    def has(self, value: Any) -> bool:
        """Return whether a value is one of those that are searched."""
        if self.values is not None:
            return value in self.values
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        assert self.low is not None
        assert self.high is not None
        step = self.step or (1 if self.whole else None)
        on_step = step is None or abs((value - self.low) / step - round((value - self.low) / step)) < 1e-9
        return self.low <= value <= self.high and on_step


class Search(Options):
    """A file of ``config/searches``: a variant, the options that are searched, and the budget."""

    name: Name = Field(
        description="Name of the search: its file's name without .yaml, and the variant if there are several."
    )
    base: Name = Field(
        description="The variant whose options are searched. A list of variants: a search of each, with the "
        "same space and budget, named <file>-<variant>."
    )
    space: dict[Key, Dimension] = Field(
        min_length=1,
        max_length=50,
        description="The options that are searched, such as training.learning_rate or options.width, each "
        "with a range {low, high, log, step} or a list of choices. All others are those of the base.",
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="Changes to the training recipe, the same for all trials."
    )
    population: Name = Field("exp_gauss", description="Population whose stamps the trials are trained on.")
    trials: int | None = Field(
        None, ge=1, le=10**5, description="Number of trials, those that were pruned included; null: no limit."
    )
    core_minutes: float | None = Field(
        None,
        gt=0,
        le=1e7,
        description="Training time of all trials together, times the CPU cores of a job [minutes]; no trial "
        "starts later. null: no limit.",
    )
    prune_after: int | None = Field(
        5,
        ge=1,
        le=10**5,
        description="A trial ends early if, after a quarter of its epochs or later, its lowest validation "
        "loss so far is above the median loss of the complete trials at this epoch. No trial ends early "
        "before this number of trials is complete. null: no trial ends early.",
    )
    seed: Seed = Field(1, description="Seed of the trainings and of the choice of the values.")

    @model_validator(mode="after")
    def _consistent(self) -> Search:
        if self.trials is None and self.core_minutes is None:
            raise ValueError("trials: a search needs a budget; give trials, core_minutes or both")
        for key in self.space:
            inner = next((other for other in self.space if other.startswith(f"{key}.")), None)
            if inner is not None:
                raise ValueError(
                    f"space.{inner}: it is a part of {key}, which is searched too; leave one out"
                )
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """The options that the result of a single trial depends on: all but the budget, as plain values."""
        return self.model_dump(mode="json", exclude={"trials", "core_minutes", "prune_after"})


def variant_of(base: Variant, values: Values) -> Variant:
    """Return the variant that a trial trains: the base with some other values.

    Parameters
    ----------
    base : Variant
    values : mapping
        By the keys of the space.

    Raises
    ------
    ConfigError
        There is no such option, or it may not have this value.
    """
    changes: dict[str, Any] = {}
    for key, value in values.items():
        changes = merge(changes, reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), value))
    return resolve_variant("trial", merge(base.model_dump(mode="json"), changes), Recipe(), "space")


def values_of(base: Variant, search: Search) -> dict[str, Any] | None:
    """Return the values of a variant for the keys of a space, or None if one of them is not in the space."""
    found = {}
    for key, dimension in search.space.items():
        value: Any = base.model_dump(mode="json")
        for part in key.split("."):
            # Options of a network inside another one are listed only where they are given.
            value = value.get(part) if isinstance(value, Mapping) else None
        if not dimension.has(value):
            return None
        found[key] = value
    return found


def probes(base: Variant, key: str, dimension: Dimension) -> Iterator[Variant]:
    """Yield the base with both ends, or with each choice, of one dimension of a space.

    Raises
    ------
    ConfigError
        See `variant_of`.
    """
    return (variant_of(base, {key: value}) for value in dimension.ends)


def recipe_of(name: str, base: Variant, search: Search, values: Values, budget: Mapping[str, Any]) -> Any:
    """Return the entry of a configuration for the variant of a trial.

    Parameters
    ----------
    name : str
        Name of the variant.
    base : Variant
    search : Search
    values : mapping
        As for `variant_of`.
    budget : mapping
        The fields of `shearbench.training.variants.Searched`.

    Returns
    -------
    dict
        ``{"variants": {name: entry}}``. The entry has the options that differ from the defaults of the
        architecture and of `Recipe`, and all that the search gives.
    """
    found = variant_of(base, values)
    defaults = resolve_variant(name, {"architecture": found.architecture}, Recipe())
    given = {tuple(key.split(".")[:2]) for key in values} | {("training", key) for key in search.training}
    entry: dict[str, Any] = {"architecture": found.architecture}
    old, new = defaults.model_dump(mode="json"), found.model_dump(mode="json")
    for section in ("options", "training"):
        entry[section] = {
            key: value
            for key, value in new[section].items()
            if value != old[section][key] or (section, key) in given
        }
    return {"variants": {name: {**entry, "searched": dict(budget)}}}
