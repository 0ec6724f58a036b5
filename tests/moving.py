"""Move modules in a copy of this package: files, imports and the order of imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path


def move_modules(root: Path, moves: Mapping[str, str]) -> None:
    """Move modules, rewrite all their names, and reverse the order of imports in each block.

    Parameters
    ----------
    root : path
        A copy of the tree: ``src``, ``scripts``, and ``workflow`` where it is there.
    moves : mapping
        Dotted names of modules, before and after.
    """
    for old, new in moves.items():
        target = root.joinpath("src", *new.split(".")).with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        for folder in target.parents:
            if folder == root / "src":
                break
            (folder / "__init__.py").touch()
        root.joinpath("src", *old.split(".")).with_suffix(".py").rename(target)
    for path in [*root.glob("src/**/*.py"), *root.glob("scripts/*.py"), *root.glob("workflow/**/*.smk")]:
        text = path.read_text()
        if path.suffix == ".py":
            text = _rewritten(text, moves)
        for old, new in moves.items():
            text = re.sub(rf"\b{re.escape(old)}\b(?!\.\w+ import)", new, text)
            text = re.sub(rf"^(\s*from ){re.escape(old)} import", rf"\g<1>{new} import", text, flags=re.M)
        path.write_text(text)


def _rewritten(text: str, moves: Mapping[str, str]) -> str:
    """Return a module with its imports one a line, of moved modules from where they are, last ones first."""
    lines = text.splitlines()
    renamed = {}
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    blocks: dict[tuple[int, int], list[str]] = {}
    for node in nodes:
        assert node.end_lineno is not None
        indent = " " * node.col_offset
        found = []
        for alias in node.names:
            suffix = f" as {alias.asname}" if alias.asname else ""
            if isinstance(node, ast.Import):
                found.append(f"{indent}import {alias.name}{suffix}")
                continue
            module, name = node.module, alias.name
            if (new := moves.get(f"{module}.{name}")) is not None:
                module, name = new.rsplit(".", 1)
                if not alias.asname and name != alias.name:
                    renamed[alias.name] = name
            found.append(f"{indent}from {module} import {name}{suffix}")
        blocks[node.lineno, node.end_lineno] = found
    # Later blocks first, so that line numbers hold; neighbours are one block.
    for start, end in sorted(blocks, reverse=True):
        lines[start - 1 : end] = blocks[start, end]
    text = "\n".join(lines) + "\n"
    for old, new in renamed.items():
        text = re.sub(rf"(?<![\w.]){old}(?=\.)", new, text)
    return _reordered(text)


def _reordered(text: str) -> str:
    """Reverse each run of lines of imports of a module, those of the future aside."""
    lines = text.splitlines()
    place = 0
    while place < len(lines):
        end = place
        while end < len(lines) and re.match(r"(?!from __future__)(import|from) ", lines[end]):
            end += 1
        lines[place:end] = lines[place:end][::-1]
        place = end + 1
    return "\n".join(lines) + "\n"
