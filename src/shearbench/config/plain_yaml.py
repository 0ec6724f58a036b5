"""Reading and writing of YAML: plain data of a limited size, never code.

All configuration files are read by this module. A key is the text as written (``1e-5: ...`` is the key
"1e-5"). A number is decimal (``1e-5`` too, which YAML 1.1 reads as text). Everything that readers of YAML
interpret in different ways is an error: a key given twice, ``0100`` (octal), ``190:20:30`` (base 60), tags.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from shearbench.errors import ConfigError

MAX_CHARACTERS = 200_000
MAX_VALUES = 20_000
MAX_DEPTH = 20
MAX_DIGITS = 40

_PREFIX = "tag:yaml.org,2002:"
_NOT_DECIMAL = "!not-decimal"
_RESOLVERS = (
    (_PREFIX + "null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (
        _PREFIX + "bool",
        r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)",
        list("yYnNtTfFoO"),
    ),
    (
        _NOT_DECIMAL,
        r"[-+]?(?:0b[01_]+|0[0-7_]+|0x[0-9a-fA-F_]+|[1-9][0-9_]*(?::[0-5]?[0-9])+"
        r"|[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*)",
        list("-+0123456789"),
    ),
    (_PREFIX + "int", r"[-+]?(?:0|[1-9][0-9_]*)", list("-+0123456789")),
    (
        _PREFIX + "float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    (_PREFIX + "merge", r"<<", ["<"]),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the limits of this module."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012, PyYAML's own, emptied

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.values = 0
        self.sizes: dict[str, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read a node, and count its values; those of an alias count at each use."""
        event = self.peek_event()
        is_alias = isinstance(event, yaml.AliasEvent)
        if getattr(event, "tag", None) is not None:
            raise _error(event, f"found the tag {event.tag}; only plain values are allowed")
        if is_alias and event.anchor in self.anchors and event.anchor not in self.sizes:
            raise _error(event, f"*{event.anchor} contains itself")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _error(event, f"more than {MAX_DEPTH} levels of nested mappings and lists")
        before = self.values
        node = super().compose_node(parent, index)
        if is_alias:
            self.values += self.sizes[event.anchor]
        else:
            self.values += 1
            if event.anchor is not None:
                self.sizes[event.anchor] = self.values - before
        if self.values > MAX_VALUES:
            raise _error(event, f"more than {MAX_VALUES} values (those of an *alias count at each use)")
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Read a mapping, and check that its keys are text and different."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error(key, "a key must be text, not a list or a mapping")
            if key.value in seen:
                raise _error(key, f"the key '{key.value[:60]}' is given twice")
            seen.add(_text(key))
        return node


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    loader.flatten_mapping(node)
    return {_text(key): loader.construct_object(value, deep=True) for key, value in node.value}


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    if len(node.value) > MAX_DIGITS:
        raise _error(node, f"a number of {len(node.value)} characters; at most {MAX_DIGITS} are allowed")
    is_integer = node.tag == _PREFIX + "int"
    return loader.construct_yaml_int(node) if is_integer else loader.construct_yaml_float(node)


def _text(node: Any) -> str:
    value = str(node.value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _error(node, "\\ud800 to \\udfff are halves of characters and cannot be used alone") from None
    return value


def _refuse_number(loader: _Loader, node: yaml.ScalarNode) -> None:
    shown = node.value if len(node.value) <= MAX_DIGITS else f"{node.value[:MAX_DIGITS]}..."
    raise _error(node, f"{shown} is not a decimal number; write a decimal number, or quotes if it is text")


def _error(at: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


for _tag, _expression, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_expression})\Z"), _first)
_Loader.add_constructor(_PREFIX + "map", _mapping)
_Loader.add_constructor(_PREFIX + "str", lambda loader, node: _text(node))
_Loader.add_constructor(_PREFIX + "int", _number)
_Loader.add_constructor(_PREFIX + "float", _number)
_Loader.add_constructor(_NOT_DECIMAL, _refuse_number)
_Loader.add_constructor(_PREFIX + "merge", lambda loader, node: node.value)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which puts quotes around text that `_Loader` would read as another type."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        """Write the same object twice rather than as an alias."""
        return True


def faults_of(path: str | os.PathLike[str], error: ConfigError) -> str:
    """Return the faults of a file, one line for each, each with the name of the file."""
    lines = str(error).split("\n")
    return "\n".join(line if line.startswith(str(path)) else f"{path}: {line}" for line in lines)


def read_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a YAML file, which must be a mapping.

    Raises
    ------
    ConfigError
        The file cannot be read, is not YAML, is not a mapping, is too large, or has a key that begins with
        ``__``, with which Snakemake may run code in the file.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: the file is not text in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: the file cannot be read: {error.strerror}") from None
    content = parse(text, str(path))
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: found {str(content)[:60]!r}, expected a mapping of keys to values")
    for key in content:
        if key.startswith("__"):
            raise ConfigError(
                f"{path}: {key[:60]}: keys that begin with '__' are not allowed, because with them Snakemake "
                "runs Python code in the file (see YTE in its documentation); remove them"
            )
    return dict(content)


def read_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the configuration in the arguments of Snakemake's ``--config``.

    Parameters
    ----------
    arguments : sequence of str
        Each is ``key=value``, with the value in YAML.

    Raises
    ------
    ConfigError
        A value is not YAML, or a key is given twice.
    """
    given: dict[str, Any] = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in given:
            raise ConfigError(f"--config: {key[:60]} is given twice")
        given[key] = parse(value, f"--config {key[:60]}")
    return given


def parse(text: str, source: str) -> Any:
    """Return the plain values of a text in YAML.

    Parameters
    ----------
    text : str
    source : str
        Name of the source of the text, for errors.

    Raises
    ------
    ConfigError
        The text is not YAML, or exceeds a limit of this module.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{source}: the text is longer than {MAX_CHARACTERS} characters")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{source}: {line}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: {str(error).splitlines()[0]}") from None
    except (
        ValueError,
        OverflowError,
    ) as error:  # PyYAML's own, such as of "\\UFFFFFFFF", which is no character
        raise ConfigError(f"{source}: {error}") from None


def dump(values: Mapping[str, Any]) -> str:
    """Return plain values as a text in YAML, from which `parse` returns equal values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
