"""A study: one question, the option that is varied to answer it, and the network variants compared."""

from __future__ import annotations

from functools import reduce
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from shearbench.errors import nearest
from shearbench.options import Distinct, Label, Name, Options, Seed, Sigma, merge

Sentences = Annotated[str, Field(min_length=1, max_length=1000)]
Inside = Literal["attention", "flow", "curves", "cost", "shifts", "batches"]
INSIDE_KINDS: tuple[str, ...] = get_args(Inside)
"""What can be measured inside the trained networks of a study."""
_AXIS = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"


class Study(Options):
    """A file of ``config/studies``: the question, the option varied, and the data to compare variants on."""

    name: Name = Field(description="Name of the study: its file's name without .yaml.")
    question: Sentences = Field(description="The question, in one sentence.")
    belief: Sentences | None = Field(
        None, description="What people say about it, in one or two sentences, which the study tests."
    )
    source: Sentences | None = Field(
        None, description="Where they say it: a reference, such as Krizhevsky et al. 2012, NeurIPS 25, 1097."
    )
    base: Name = Field(description="The variant that is varied.")
    axis: str | None = Field(
        None,
        pattern=_AXIS,
        max_length=200,
        description="The option that is varied, such as options.downsampling or training.ema; null if each "
        "value is a mapping of options, to change several together.",
    )
    values: dict[Label, Any] = Field(
        min_length=2,
        max_length=100,
        description="The values compared: for each a label for figures, and the option's value.",
    )
    shear: bool = Field(
        False,
        description="Also measure m and c of each value on the shear split, at the noise levels of `noise`.",
    )
    power_law: bool = Field(
        False,
        description="Fit a power law of the RMSE in the values of `axis`: at least 3 numbers above zero. "
        "Values that are not numbers, such as null, are left out of the fit.",
    )
    reference: Label | dict[Label, Label] | None = Field(
        None,
        description="The label of the value that the others are compared with in the summary of all studies; "
        "null: the first. A mapping gives single values references of their own; the values that it names "
        "as references, and not more, are compared with none, the others with the first.",
    )
    expects: dict[Label, Literal["helps", "hurts", "makes no difference"]] = Field(
        default_factory=dict,
        description="What the belief says of values beside their references: `helps`, `hurts` or `makes no "
        "difference`. The summary says whether this holds.",
    )
    population: Name = Field("exp_gauss", description="Population for training and comparison.")
    noise: Sigma | Annotated[tuple[Sigma, ...], Distinct, Field(min_length=1)] = Field(
        (1e-5, 1e-2),
        description="Noise level at which the values are judged, or a list of levels, each with a verdict "
        "of its own. Each must be one of `noise_levels` of the run.",
    )
    seeds: Annotated[tuple[Seed, ...], Distinct] = Field(
        (1, 2, 3), min_length=1, max_length=100, description="Seeds that each value is trained with."
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="Changes to the training recipe, the same for all values."
    )
    inside: Annotated[tuple[Inside, ...], Distinct] = Field(
        (),
        description="Measurements inside the trained networks, each with a table and figures. `flow`: norms "
        "of the gradients by each layer before and after the training, shares of zero responses and of dead "
        "units. `curves`: function and derivative of the first activation, and its response to the edges of "
        "a galaxy. `cost`: operations and the time of a training step. `shifts`: the change of the answer "
        "when a galaxy is shifted by a fraction of a pixel. `batches`: the errors with batch normalisation "
        "by the statistics of batches of mixed and of equal brightness. `attention`: where networks with "
        "attention look, beside the information in each pixel, and how they are told positions.",
    )

    @model_validator(mode="after")
    def _values_fit(self) -> Study:
        given = self.reference or {}
        named = [given] if isinstance(given, str) else [*given, *given.values()]
        for key, labels in (("reference", named), ("expects", self.expects)):
            for label in labels:
                if label not in self.values:
                    close = nearest(label, self.values)
                    raise ValueError(f"{key}: '{label}' is not one of the values{close}")
        for label in self.expects:
            if self.reference_of(label) == label:
                raise ValueError(f"expects: '{label}' is a reference, which is compared with no other value")
        if self.power_law and (self.axis is None or len(self.sizes) < 3):
            raise ValueError(
                "power_law: a fit needs an axis with at least 3 values that are numbers above zero, and "
                f"there are {len(self.sizes) if self.axis else 0}; add values, or set power_law to false"
            )
        for label, value in self.values.items():
            if self.axis is None and not isinstance(value, dict):
                raise ValueError(
                    f"values.{label}: without an axis, each value must be a mapping of options, not {value!r}"
                )
        return self

    @property
    def levels(self) -> list[float]:
        """The noise levels of the verdicts, from the lowest up."""
        return sorted(self.noise) if isinstance(self.noise, tuple) else [self.noise]

    def reference_of(self, label: str) -> str:
        """Return the label of the value that a value is compared with; its own, if that is a reference."""
        if isinstance(self.reference, str):
            return self.reference
        references = self.reference or {}
        others = label if label in references.values() else next(iter(self.values))
        return references.get(label, others)

    @property
    def sizes(self) -> dict[str, float]:
        """The values that are numbers above zero, by label."""
        return {
            label: float(value)
            for label, value in self.values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
        }

    def variants(self) -> dict[str, dict[str, Any]]:
        """Return the networks of the study in the form of the configuration's section ``variants``.

        Returns
        -------
        dict
            ``{label: {"base": ..., ...changes}}`` in the order of `values`. Changes of a value take
            precedence over those of `training`.
        """
        common: dict[str, Any] = {"base": self.base}
        if self.training:
            common["training"] = self.training
        expanded = {}
        for label, value in self.values.items():
            changes = value if self.axis is None else reduce(_inside, reversed(self.axis.split(".")), value)
            expanded[label] = merge(common, changes)
        return expanded


def _inside(value: Any, key: str) -> dict[str, Any]:
    return {key: value}
