"""A study: one question, one axis, and the network variants along it."""

from __future__ import annotations

import re
from functools import reduce
from typing import Annotated, Any

from pydantic import Field, model_validator

from shearbench.options import MAX_NAME, Distinct, Label, Name, Options, Seed, Sigma, is_name, merge

_AXIS = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"


class Study(Options):
    """A file of ``config/studies``: what is asked, what is varied, and where the answer is read off."""

    name: Name = Field(description="Name of the study: its file's name without .yaml.")
    question: str = Field(min_length=1, max_length=1000, description="What the study asks, in a sentence.")
    base: Name = Field(description="The variant that is varied.")
    axis: str | None = Field(
        None,
        pattern=_AXIS,
        max_length=200,
        description="The option that is varied, dotted, such as options.downsampling or training.ema; null "
        "where each value is itself a mapping of options, to change several at once.",
    )
    values: dict[Label, Any] = Field(
        min_length=2,
        max_length=100,
        description="What is compared: a label for figures, and the option's value.",
    )
    population: Name = Field("exp_gauss", description="Population to train and to be judged on.")
    noise: Sigma = Field(1e-5, description="Noise level at which the verdict is given.")
    seeds: Annotated[tuple[Seed, ...], Distinct] = Field(
        (1, 2, 3), min_length=1, max_length=100, description="Seeds each value is trained with."
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="Changes of the training recipe, the same for all values."
    )

    @model_validator(mode="after")
    def _distinct_variants(self) -> Study:
        names: dict[str, str] = {}
        for label, value in self.values.items():
            name = self.variant_name(label)
            if name in names:
                raise ValueError(
                    f"values: '{names[name]}' and '{label}' would both be the variant '{name}'; "
                    "labels must differ in their letters or digits"
                )
            names[name] = label
            if not is_name(name) or name == f"{self.name}-":
                raise ValueError(
                    f"values: '{label}' would be the variant '{name}'; a label needs a letter or a digit, "
                    f"and its variant's name at most {MAX_NAME} characters"
                )
            if self.axis is None and not isinstance(value, dict):
                raise ValueError(
                    f"values.{label}: without an axis each value is a mapping of options, not {value!r}"
                )
        return self

    def variant_name(self, label: str) -> str:
        """Return the variant's name for one of the labels; it is safe as a file name."""
        return f"{self.name}-{re.sub(r'[^A-Za-z0-9]+', '-', label).strip('-').lower()}"

    def variants(self) -> dict[str, dict[str, Any]]:
        """Return the variants of the study, as a configuration's ``variants`` section would list them.

        Returns
        -------
        dict
            ``{name: {"base": ..., ...changes}}`` in the order of `values`; what a value changes wins over
            `training`.
        """
        common: dict[str, Any] = {"base": self.base}
        if self.training:
            common["training"] = self.training
        expanded = {}
        for label, value in self.values.items():
            changes = value if self.axis is None else reduce(_inside, reversed(self.axis.split(".")), value)
            expanded[self.variant_name(label)] = merge(common, changes)
        return expanded


def _inside(value: Any, key: str) -> dict[str, Any]:
    return {key: value}
