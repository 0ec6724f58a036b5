"""Typed options of a configuration, and libraries of named presets.

Populations, estimators and network variants are configured in the same way. The configuration lists names.
A name is either a preset of the library, or new: then it names the preset that it is based on (`base`) and
the options that differ from it.
"""

from __future__ import annotations

import importlib.util
import inspect
import pkgutil
import re
import traceback
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from shearbench.errors import ConfigError, nearest

MAX_NAME = 100
"""Longest name, in characters: file names made from it stay below the limit of file systems, 255."""

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_NAME - 1}}}")


def is_name(value: object) -> bool:
    """Return whether a value is a valid name; names become parts of file names."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


NAME_RULE = f"letters, digits, '-' and '_' only, the first a letter or a digit, at most {MAX_NAME} in all"


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError(f"{shown(value)} cannot be part of a file name; allowed: {NAME_RULE}")
    return value


def _words(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise ValueError(
            f"{shown(value)} cannot be shown in figures; allowed: one line of printable characters"
        )
    return value


def _distinct(values: Any) -> Any:
    if len(set(values)) != len(values):
        twice = next(value for value in values if list(values).count(value) > 1)
        raise ValueError(f"{shown(list(values))} contains {shown(twice)} twice")
    return values


Name = Annotated[str, AfterValidator(_name)]
Label = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_words)]
Distinct = AfterValidator(_distinct)
"""Added to the type of a sequence: no entry may appear twice."""
Sigma = Annotated[float, Field(ge=1e-12, le=1e6)]
"""A standard deviation of a pixel's noise, in the image's units."""
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Options(BaseModel):
    """A set of options: immutable, and without keys that are not declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, values: Any) -> Any:
        # Python takes `true` for the number 1; in place of a number in a configuration, it is a mistake.
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
    """Yield the types and literals that a type annotation consists of."""
    inner = typing.get_args(annotation)
    if not inner:
        yield annotation
    for part in inner:
        yield from _parts(part)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated with `changes`; nested mappings are merged, lists and values are replaced."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


T = TypeVar("T")


def discover(package: str, subclass_of: type[T]) -> dict[str, type[T]]:
    """Import every module of a package and return its concrete classes, keyed by their ``kind``.

    A class is added by adding a file to the package; no list needs an entry.

    Parameters
    ----------
    package : str
        Dotted name, such as ``"shearbench.estimators"``. Its modules must be quick to import, because the
        workflow imports all of them when it plans: import torch, galsim or numba inside the functions that
        need them.
    subclass_of : type
        The base class; a concrete class has a string attribute ``kind``.

    Returns
    -------
    dict of str to type

    Raises
    ------
    ConfigError
        A module cannot be imported, its class has no kind, or two classes have the same kind.
    """
    paths = tuple(importlib.import_module(package).__path__)
    return dict(_discovered(package, subclass_of, paths))  # type: ignore[arg-type]  # a class has a hash


@cache
def _discovered(package: str, subclass_of: type[Any], paths: tuple[str, ...]) -> dict[str, type[Any]]:
    # Remembered, because a plan asks for the architectures of each value of all studies.
    found: dict[str, type[Any]] = {}
    nameless: list[type[Any]] = []
    for info in sorted(pkgutil.iter_modules(paths), key=lambda m: m.name):
        module = _imported(f"{package}.{info.name}")
        for value in vars(module).values():
            if not (isinstance(value, type) and issubclass(value, subclass_of)):
                continue
            if "kind" not in vars(value):
                nameless += [value] if value.__module__ == module.__name__ else []
            elif (other := found.setdefault(kind := vars(value)["kind"], value)) is not value:
                raise ConfigError(
                    f"{_file(other)} and {_file(value)}: both have the kind '{kind}'; change it in one"
                )
    for value in nameless:
        if not value.__subclasses__():  # it is no base of others
            raise ConfigError(
                f"{_file(value)}: the class {value.__name__} has no `kind`, the name by which a "
                f'configuration knows it; add for example `kind: ClassVar[str] = "{value.__name__.lower()}"`'
            )
    return found


def _imported(name: str) -> ModuleType:
    """Import a module, which a user may have just written: say the line of an error without a traceback."""
    spec = importlib.util.find_spec(name)
    file = spec.origin if spec else None
    try:
        return importlib.import_module(name)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines, reason = [frame.lineno for frame in frames if frame.filename == file], str(error)
        if isinstance(error, SyntaxError) and error.filename == file:
            lines, reason = [error.lineno], error.msg
        at = f", line {lines[-1]}" if lines else ""
        raise ConfigError(f"{file}{at}: {type(error).__name__}: {reason}") from error


def _file(cls: type) -> str:
    return inspect.getsourcefile(cls) or cls.__module__


def library(kinds: Mapping[str, type[Any]]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return all names that a configuration may use without defining them: kinds and presets.

    Parameters
    ----------
    kinds : dict of str to type
        From `discover`. A class may define a mapping ``presets``; it does not inherit that of its base class.

    Returns
    -------
    dict of str to (str, dict)
        For each name its kind and the options of its preset, which are empty where the name is a kind.

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
    """Return an instance of a model, made from plain values.

    Parameters
    ----------
    model : type
        A pydantic model.
    value : mapping
        The values of its fields.
    where : tuple of str
        The key of the configuration that holds the values, such as ``("populations", "exp_gauss")``.

    Returns
    -------
    BaseModel
        Of the class `model`.

    Raises
    ------
    ConfigError
        A value is invalid. The message has one line for each: the key, the value and the allowed values, with
        the nearest valid name.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError("\n".join(_messages(error, model, where))) from None
    except UnicodeEncodeError:  # of the message of a check, which names the value
        raise ConfigError(
            f"{'.'.join(where)}: a text has one of \\ud800 to \\udfff, which are halves of characters and "
            "cannot be used alone"
        ) from None


def _messages(error: ValidationError, model: type[BaseModel], where: tuple[str, ...]) -> Iterator[str]:
    """Turn pydantic's errors into sentences that name the key, the value and the allowed values."""
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
            # The message of a check of several options begins with the name of the option to change.
            together = isinstance(found["input"], Mapping)
            yield (".".join if together else ": ".join)(filter(None, [key, reason]))
            continue
        choices = re.findall(r"'([^']*)'", reason) if found["type"] == "literal_error" else []
        close = nearest(shown(found["input"]).strip("'"), choices)
        yield f"{key}: found {shown(found['input'])}, expected {reason}{close}"


_BRANCH = re.compile(r"constrained-\w+|float|int|str|(?:list|tuple)\[.*\]")


def _of_the_branch_meant(error: ValidationError) -> list[dict[str, Any]]:
    """Return pydantic's errors; of an option with several possible types, those for the intended type."""
    by_place: dict[Any, list[dict[str, Any]]] = {}
    for number, found in enumerate(error.errors()):
        location = found["loc"]
        branches = [at for at, part in enumerate(location) if at and _BRANCH.fullmatch(str(part))]
        plain = tuple(part for at, part in enumerate(location) if at not in branches)
        place = location[: branches[0]] if branches else number
        branch = str(location[branches[0]]) if branches else ""
        by_place.setdefault(place, []).append({**found, "loc": plain, "branch": branch})
    chosen = []
    for findings in by_place.values():
        # A number that may be whole or not is reported twice.
        if any(found["branch"].endswith("float") for found in findings):
            findings = [found for found in findings if not found["branch"].endswith("int")]
        # For a number that is too large, pydantic also reports that it is not a list: drop that error.
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
    """Return the limit that a number or a length exceeds, in words, or None where another check failed."""
    if found["type"].endswith(("too_short", "too_long")):
        words, key = (
            ("at least", "min_length") if found["type"].endswith("short") else ("at most", "max_length")
        )
        noun = "character" if found["type"].startswith("string") else "entry"
        count = found["ctx"][key]
        plural = {"character": "characters", "entry": "entries"}[noun]
        return f"{words} {count} {noun if count == 1 else plural}"
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
    """Return a value as text for an error message, at most 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write an integer of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
