"""Digests of all that a result depends on: options, code, and the digests of its inputs.

Each rule has such a digest among its ``params``, which Snakemake compares with those that the outputs were
made with. So exactly the results whose options, code or inputs changed are made again; modification times (of
a fresh clone, of a copy) do not matter. Only the contents of code count, not the names and folders of
modules.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).parents[1]
# These modules do not change a result: logs, locks, temporary names, the ends of processes, the choice of a
# GPU and its use, curves for trackers, the wording of errors, the checks of options (whose values are in the
# digests themselves) and the catalogue of figures.
NO_RESULT = frozenset(
    {
        "shearbench.jobs.job",
        "shearbench.jobs.locks",
        "shearbench.files.leftovers",
        "shearbench.jobs.processes",
        "shearbench.jobs.devices",
        "shearbench.jobs.gpu_use",
        "shearbench.training.tracking",
        "shearbench.errors",
        "shearbench.options",
        "shearbench.figures.catalogue",
    }
)
"""Modules that digests leave out, by their full names: if one moves, its name here must change."""

# A reference to a module of this package in a parsed file; in a digest, the module's contents replace it.
_MARK = re.compile(r"<module ([\w.]+)>")


@cache
def code_digest(script: str, modules: tuple[str, ...] = ()) -> str:
    """Return a digest of a script and of every module of this package that it imports, directly or not.

    Comments, docstrings, layout, the names and folders of files and the order of imports do not count.
    Imports are found in the source, inside functions too. Modules that are imported by a computed name (an
    estimator, an architecture) must be given in `modules`. A package's ``__init__`` counts only if a name is
    imported from it, not because it contains a module.

    Parameters
    ----------
    script : str
        Path of a Python file.
    modules : tuple of str
        Dotted names of further modules of this package.

    Returns
    -------
    str

    Raises
    ------
    ModuleNotFoundError
        A module of this package does not exist.
    SyntaxError
        A file is not valid Python.
    """
    waiting = [Path(script), *map(_file_of, _counted(modules))]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting.extend(map(_file_of, _counted(_parsed(path).used)))
    return digest(sorted({_contents(path) for path in seen}))


def modules_used(path: Path) -> tuple[str, ...]:
    """Return the dotted names of the modules of this package that a file imports when it runs."""
    return _parsed(path).used


def digest(*parts: Any) -> str:
    """Return a digest of plain values (options, other digests), the same on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Parsed:
    """The parts of a source file that a digest counts; `_MARK`s replace the modules of this package."""

    text: str
    imports: tuple[tuple[str, str, str], ...]  # module, name and alias
    used: tuple[str, ...]  # modules of this package


def _counted(modules: Iterable[str]) -> list[str]:
    return [name for name in modules if name not in NO_RESULT]


@cache
def _find(name: str) -> Path | None:
    """Return the file of a module of this package, or None if there is none."""
    path = _SOURCE.parent.joinpath(*name.split("."))
    if (path / "__init__.py").is_file():
        return path / "__init__.py"
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else None


def _file_of(name: str) -> Path:
    path = _find(name)
    if path is None:
        raise ModuleNotFoundError(f"no module '{name}' in {_SOURCE}")
    return path


def _split(name: str) -> tuple[str, str] | None:
    """Split a dotted name into a module of this package, the longest possible, and the name in it."""
    parts = name.split(".")
    if parts[0] != _SOURCE.name:
        return None
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        if _find(module):
            return module, ".".join(parts[end:])
    return None


@cache
def _contents(path: Path) -> str:
    """Return a digest of a file in which the contents of the modules that it uses replace their names.

    So the digest changes if a function is imported from another module, but not if a module gets a new name.
    """
    parsed = _parsed(path)

    def written(mark: re.Match[str]) -> str:
        return "<exempt>" if mark[1] in NO_RESULT else f"<{_own_text(_file_of(mark[1]))}>"

    imports = sorted((_MARK.sub(written, module), name, alias) for module, name, alias in parsed.imports)
    return digest(_MARK.sub(written, parsed.text), imports)


@cache
def _own_text(path: Path) -> str:
    """Return a digest of a file that does not depend on the modules it uses."""
    parsed = _parsed(path)
    return digest(_MARK.sub("<module>", parsed.text), sorted(pair[1:] for pair in parsed.imports))


@cache
def _parsed(path: Path) -> _Parsed:
    source = path.read_text(encoding="utf-8")
    within = path.relative_to(_SOURCE).parts[:-1] if path.is_relative_to(_SOURCE) else None
    known, key = _known(_SOURCE), digest(_parser(_SOURCE), within, source)
    if key not in known:
        tree = ast.parse(source, filename=str(path))
        reader = _Reader(path)
        known[key] = [ast.unparse(reader.visit(tree)), sorted(reader.imports), sorted(reader.used)]
    text, imports, used = known[key]
    return _Parsed(text, tuple((module, name, alias) for module, name, alias in imports), tuple(used))


_MOST = 1000  # parsed files that are kept


@cache
def _parser(source: Path) -> str:
    """Return a digest of all that decides, beside a file itself, how it is parsed."""
    modules = sorted(str(path.relative_to(source)) for path in source.rglob("*.py"))
    return digest(sys.version_info[:3], Path(__file__).read_text(encoding="utf-8"), modules)


@cache
def _known(source: Path) -> dict[str, list[Any]]:
    """Return the files that were parsed by earlier processes, and save those of this one when it ends.

    Parsing all files takes as long as the rest of planning, and each job of a cluster plans again.
    """
    path = source / "__pycache__" / f"provenance.{sys.implementation.cache_tag}.json"
    try:
        checksum, _, body = path.read_text(encoding="utf-8").partition("\n")
        known = json.loads(body) if checksum == _checksum(body) else {}
    except (OSError, ValueError):
        known = {}
    atexit.register(_save, path, known, len(known))
    return known


def _save(path: Path, known: dict[str, list[Any]], before: int) -> None:
    if len(known) == before:
        return
    body = json.dumps(dict(list(known.items())[-_MOST:]))
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):  # without the file, the next process parses again
        path.parent.mkdir(exist_ok=True)
        temporary.write_text(f"{_checksum(body)}\n{body}", encoding="utf-8")
        temporary.replace(path)


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


class _Reader(ast.NodeTransformer):
    """Remove imports, docstrings and code for type checkers from a module; collect the modules it uses."""

    def __init__(self, path: Path) -> None:
        self.imports: set[tuple[str, str, str]] = set()
        self.used: set[str] = set()
        self._modules: dict[str, str] = {}  # modules of this package by the names they have in this file
        inside = path.is_relative_to(_SOURCE)
        self._package = [_SOURCE.name, *path.relative_to(_SOURCE).parts[:-1]] if inside else []

    def visit_Module(self, node: ast.Module) -> ast.AST:
        # All imports first: a function may use a name that is imported further below.
        for statement in _statements(node):
            if isinstance(statement, ast.Import):
                self._import(statement)
            elif isinstance(statement, ast.ImportFrom):
                self._import_from(statement)
        return self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        # A block that has become empty needs a statement.
        if getattr(node, "body", None) == [] and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node

    def visit_Import(self, node: ast.Import) -> None:
        return None

    visit_ImportFrom = visit_Import  # type: ignore[assignment]

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        # A string that is a statement of its own is a docstring, of a module, class, function or attribute.
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        if _for_type_checkers(node):
            return list(filter(None, map(self.visit, node.orelse)))
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._reference(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        found = self._reference(node)
        return self.generic_visit(node) if found is node else found

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not isinstance(node.value, str) or _SOURCE.name not in node.value:
            return node
        if (found := _split(node.value)) and not found[1]:
            # The name of a module, for code that imports it by name.
            return ast.Constant(_mark(found[0]))
        # A name within a longer text: the module is mentioned, not used.
        return ast.Constant(re.sub(rf"\b{_SOURCE.name}(\.\w+)+", _mentioned, node.value))

    def _reference(self, node: ast.Name | ast.Attribute) -> ast.AST:
        """Return a reference into a module of this package with the module's mark in place of its name."""
        root, rest = node, list[str]()
        while isinstance(root, ast.Attribute):
            rest.insert(0, root.attr)
            root = root.value  # type: ignore[assignment]
        if not isinstance(root, ast.Name) or root.id not in self._modules:
            return node
        found = _split(".".join([self._modules[root.id], *rest]))
        assert found is not None
        self.used.add(found[0])
        marked: ast.expr = ast.Name(_mark(found[0]))
        for name in filter(None, found[1].split(".")):
            marked = ast.Attribute(marked, name)
        return marked

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            if _split(alias.name) is None:
                self.imports.add(("", alias.name, alias.asname or ""))
            elif alias.asname:
                self._modules[alias.asname] = alias.name
                self.used.add(alias.name)
            else:
                self._modules[_SOURCE.name] = _SOURCE.name
                self.used.add(alias.name)

    def _import_from(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level:
            base = self._package[: len(self._package) - node.level + 1]
            module = ".".join([*base, *filter(None, [node.module])])
        for alias in node.names:
            found = _split(f"{module}.{alias.name}")
            if found is None:
                self.imports.add(("", f"{module}.{alias.name}", alias.asname or ""))
            elif found[1]:
                self.imports.add((_mark(found[0]), found[1], alias.asname or ""))
                self.used.add(found[0])
            else:
                self._modules[alias.asname or alias.name] = found[0]
                self.used.add(found[0])


def _mark(module: str) -> str:
    return f"<module {module}>"


def _mentioned(match: re.Match[str]) -> str:
    found = _split(match[0])
    return match[0] if found is None else ".".join(filter(None, ["<module>", found[1]]))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all statements in a node, without the code for type checkers."""
    if isinstance(node, ast.If) and _for_type_checkers(node):
        inside: Iterable[ast.AST] = node.orelse
    else:
        yield node
        inside = ast.iter_child_nodes(node)
    for child in inside:
        if not isinstance(child, ast.expr):  # which has no statement
            yield from _statements(child)


def _for_type_checkers(node: ast.If) -> bool:
    return "TYPE_CHECKING" in ast.unparse(node.test)
