"""Typed options, and libraries of named ones.

Populations, estimators and network variants are all configured alike: a configuration lists names;
each name is either a preset of the library, or a new one that says which preset it is based on and
what it changes.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from shearbench.errors import ConfigError, nearest

MAX_NAME = 100
"""Characters of a name: with what is added to them, file names stay below the 255 that file systems take."""

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_NAME - 1}}}")


def is_name(value: object) -> bool:
    """Return whether a value can be a name, which is part of file names."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


NAME_RULE = f"letters, digits, '-' and '_' only, the first a letter or a digit, at most {MAX_NAME} in all"


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError(f"{shown(value)} is to be part of file names: {NAME_RULE}")
    return value


def _words(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise ValueError(f"{shown(value)} is to be shown in figures: one line of characters that can be seen")
    return value


def _distinct(values: Any) -> Any:
    if len(set(values)) != len(values):
        twice = next(value for value in values if list(values).count(value) > 1)
        raise ValueError(f"{shown(list(values))} has {shown(twice)} twice")
    return values


Name = Annotated[str, AfterValidator(_name)]
Label = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_words)]
Distinct = AfterValidator(_distinct)
"""Added to the type of a sequence of which no entry may be there twice."""
Sigma = Annotated[float, Field(ge=1e-12, le=1e6)]
"""A standard deviation of a pixel's noise, in the image's units."""
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Options(BaseModel):
    """Options that refuse unknown keys and do not change once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, values: Any) -> Any:
        # To Python, `true` is the number 1; to a user who writes it in place of one, it is a slip.
        for name, value in values.items() if isinstance(values, Mapping) else ():
            field = cls.model_fields.get(name)
            if not isinstance(value, bool) or field is None:
                continue
            parts = list(_parts(field.annotation))
            number = any(part is int or part is float for part in parts)
            if number and not any(part is bool or isinstance(part, bool) for part in parts):
                raise ValueError(f"{name}: found {str(value).lower()}, which is neither a number nor a name")
        return values


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield the types and literals that an annotation is made of."""
    inner = typing.get_args(annotation)
    if not inner:
        yield annotation
    for part in inner:
        yield from _parts(part)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` laid over it, mapping by mapping; a list or a value is replaced whole."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


T = TypeVar("T")


def discover(package: str, subclass_of: type[T]) -> dict[str, type[T]]:
    """Import every module of a package and return the concrete classes found, by their ``kind``.

    Adding a file to the package is all it takes to add a class: there is no list to keep.

    Parameters
    ----------
    package : str
        Dotted name, such as ``"shearbench.estimators"``. Its modules must be cheap to import: heavy
        packages (torch, galsim, numba) belong inside the functions that need them, because the
        workflow reads every file when it plans.
    subclass_of : type
        The base class; a concrete class has a string attribute ``kind``.

    Returns
    -------
    dict of str to type

    Raises
    ------
    ConfigError
        Two classes have the same kind.
    """
    found: dict[str, type[T]] = {}
    root = importlib.import_module(package)
    for info in sorted(pkgutil.iter_modules(root.__path__), key=lambda m: m.name):
        module = importlib.import_module(f"{package}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, subclass_of) and "kind" in vars(value):
                kind = vars(value)["kind"]
                if (other := found.setdefault(kind, value)) is not value:
                    raise ConfigError(
                        f"{_file(other)} and {_file(value)}: both have the kind '{kind}'; change it in one"
                    )
    return found


def _file(cls: type) -> str:
    return inspect.getsourcefile(cls) or cls.__module__


def library(kinds: Mapping[str, type[Any]]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return every name that a configuration may use at once: each kind, and the presets of its class.

    Parameters
    ----------
    kinds : dict of str to type
        Of `discover`. A class may have a mapping ``presets`` of its own; those of its base are the base's.

    Returns
    -------
    dict of str to (str, dict)
        Of each name the kind, and what its preset says: nothing for a kind.

    Raises
    ------
    ConfigError
        Two classes use the same name.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for kind, cls in kinds.items():
        for name, preset in {kind: {}, **vars(cls).get("presets", {})}.items():
            other = found.setdefault(name, (kind, preset))[0]
            if other != kind:
                raise ConfigError(
                    f"{_file(kinds[other])} and {_file(cls)}: both have the name '{name}' (as `kind` or in "
                    "`presets`); change it in one"
                )
    return found


M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], value: Any, where: tuple[str, ...]) -> M:
    """Return a model made of plain values.

    Parameters
    ----------
    model : type
    value : mapping
    where : tuple of str
        The key of the configuration the values stand under.

    Raises
    ------
    ConfigError
        With one line for each thing that is wrong: the key, the value, what is allowed, the nearest name.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError("\n".join(_messages(error, model, where))) from None


def _messages(error: ValidationError, model: type[BaseModel], where: tuple[str, ...]) -> Iterator[str]:
    """Turn pydantic's findings into sentences that name the key, the value and what is allowed."""
    for found in _of_the_branch_meant(error):
        location = found["loc"]
        key = ".".join(str(part) for part in (*where, *location))
        if found["type"] == "extra_forbidden":
            allowed = sorted(_fields_at(model, location[:-1]))
            close = nearest(str(location[-1]), allowed)
            yield f"{key}: there is no such key{close}. Allowed here: {', '.join(allowed)}"
            continue
        reason = _limit(found) or found["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if found["type"] == "value_error":
            # A check of several options together starts with the name of the one to change.
            together = isinstance(found["input"], Mapping)
            yield (".".join if together else ": ".join)(filter(None, [key, reason]))
            continue
        choices = re.findall(r"'([^']*)'", reason) if found["type"] == "literal_error" else []
        close = nearest(shown(found["input"]).strip("'"), choices)
        yield f"{key}: found {shown(found['input'])}, expected {reason}{close}"


_BRANCH = re.compile(r"constrained-\w+|float|int|str|(?:list|tuple)\[.*\]")


def _of_the_branch_meant(error: ValidationError) -> list[dict[str, Any]]:
    """Return the findings; where an option may be of several types, those of the type that was meant."""
    by_place: dict[Any, list[dict[str, Any]]] = {}
    for number, found in enumerate(error.errors()):
        location = found["loc"]
        branches = [at for at, part in enumerate(location) if at and _BRANCH.fullmatch(str(part))]
        plain = tuple(part for at, part in enumerate(location) if at not in branches)
        place = location[: branches[0]] if branches else number
        by_place.setdefault(place, []).append({**found, "loc": plain})
    chosen = []
    for findings in by_place.values():
        # Of a number that is too large for one type, another says only that it expected a list.
        meant = [found for found in findings if not found["type"].endswith(("_type", "_parsing"))]
        chosen += meant or findings
    return chosen


_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _limit(found: Mapping[str, Any]) -> str | None:
    """Return the limit that a number breaks, in few digits, or None where another check failed."""
    if found["type"] not in _LIMITS:
        return None
    key, words = _LIMITS[found["type"]]
    return f"{words} {found['ctx'][key]:.15g}"


def _fields_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Return the keys allowed at a location inside a model."""
    current: Any = model
    for part in location:
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else current
        options = [annotation, *typing.get_args(annotation)]
        current = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), current)
    return list(getattr(current, "model_fields", {}))


def shown(value: Any) -> str:
    """Return a value as an error message shows it."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
