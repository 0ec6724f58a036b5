"""What a result depends on, as a digest: options, code, and the digests of what it was made from.

Snakemake compares a rule's ``params`` with those its outputs were made with. Each rule carries such a digest
there, so exactly what changed runs again, and modification times (a fresh clone, a copy) do not matter.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).parent
# Logging, locks, names of temporary files, the ends of processes, the choice of a GPU and the measurement of
# its use, the wording of errors and the checking of options leave no trace in a result (the options' values
# are in the digests themselves).
_NO_RESULT = {
    "job.py",
    "locks.py",
    "leftovers.py",
    "processes.py",
    "devices.py",
    "gpu_use.py",
    "errors.py",
    "options.py",
}


@cache
def code_digest(script: str, modules: tuple[str, ...] = ()) -> str:
    """Return a digest of a script and of every module of this package that it imports, directly or not.

    Comments, docstrings and layout do not count. Imports are found by reading the source, inside functions
    too; what is imported by a computed name (an estimator, an architecture) must be given in `modules`.

    Parameters
    ----------
    script : str
        Path of a Python file.
    modules : tuple of str
        Dotted names of further modules of this package.

    Returns
    -------
    str
    """
    waiting = [Path(script), *(_module_file(name) for name in modules)]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen or path.name in _NO_RESULT:
            continue
        seen.add(path)
        waiting.extend(_imports(path))
    return digest(sorted((path.name, _normalised(path)) for path in seen))


def digest(*parts: Any) -> str:
    """Return a digest of plain values (options, other digests), the same on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _module_file(name: str) -> Path:
    """Return the file of a module of this package."""
    path = _SOURCE.parent.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        raise ModuleNotFoundError(f"no module '{name}' at {file}")
    return file


@cache
def _normalised(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not (isinstance(body, list) and body and isinstance(body[0], ast.Expr)):
            continue
        first = body[0].value
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            body[:1] = [] if len(body) > 1 or isinstance(node, ast.Module) else [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    """Return the files of this package that a file imports when it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    found: set[Path] = set()
    for name in _imported_names(tree.body):
        parts = name.split(".")
        if parts[0] != _SOURCE.name:
            continue
        # `from package import thing`: the longest prefix that is a module, and the packages on the way.
        for end in range(1, len(parts) + 1):
            try:
                found.add(_module_file(".".join(parts[:end])))
            except ModuleNotFoundError:
                break
    return tuple(sorted(found))


def _imported_names(body: Iterable[ast.AST]) -> Iterable[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imported_names(node.orelse)
        else:
            yield from _imported_names(ast.iter_child_nodes(node))
