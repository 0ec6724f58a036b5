"""The packages (rooms) of shearbench and the imports between them, read from the source code.

`tests/house` checks the directions of the imports; `shearbench.tools.docs` draws them in
``docs/architecture.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from shearbench.jobs.provenance import modules_used

SOURCE = Path(__file__).parents[1]

GROUND = ("errors", "options", "files", "studies")
"""The modules and packages that every room may import."""

FLOORS: tuple[Mapping[str, str], ...] = (
    {"forward_model": "images from parameters"},
    {"jobs": "log, locks, devices, digests", "data": "catalogs, stamps, estimates"},
    {"simulation": "populations, GalSim", "evaluation": "estimates against the truth"},
    {
        "networks": "architectures",
        "frameworks": "one small network in NumPy, PyTorch, JAX, Keras",
        "bounds": "Cramer-Rao, Bayes floor",
        "figures": "drawn from tables",
        "paper": "tables, numbers, manifest",
    },
    {"training": "loop, recipe, checkpoints"},
    {"tasks": "shear, morphology, encoders"},
    {"measurement": "fits, moments, trained networks", "diagnostics": "networks, from outside and inside"},
    {"estimators": "options of estimators"},
    {"config": "schema, reading, labels"},
    {
        "plan": "names, counts, digests of a run",
        "api": "finished runs in Python",
        "tools": "benchmarks, documentation",
    },
)
"""The rooms on each floor, from the lowest up. A room may import from its own floor and from lower ones."""


def floor_of(module: str) -> int:
    """Return the floor that a module is on; the ground is 0.

    Parameters
    ----------
    module : str
        Dotted name, without ``shearbench.``.

    Raises
    ------
    KeyError
        The module is in no room.
    """
    room = module.split(".")[0]
    if room in GROUND:
        return 0
    for floor, rooms in enumerate(FLOORS):
        if room in rooms:
            return floor
    raise KeyError(module)


@cache
def modules() -> dict[str, Path]:
    """Return the file of each module, by its dotted name without ``shearbench.``."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """Return the modules of the package that a module imports, at its top or inside functions.

    Imports for type checkers only are left out.
    """
    names = (name.removeprefix(f"{SOURCE.name}.") for name in modules_used(modules()[module]))
    return frozenset(name for name in names if name not in (module, SOURCE.name))


def upward_imports() -> list[tuple[str, str]]:
    """Return the imports from higher floors, as pairs (importing module, imported module)."""
    return [
        (module, other)
        for module in modules()
        for other in sorted(imports(module))
        if floor_of(other) > floor_of(module)
    ]


def circles() -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others.

    The strongly connected components of more than one module (Tarjan 1972, SIAM J. Comput. 1, 146).
    """
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in sorted(imports(module)):
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            at = stack.index(module)
            group, stack[at:] = stack[at:], []
            if len(group) > 1:
                found.append(sorted(group))

    for module in modules():
        if module not in number:
            visit(module)
    return found


def room_imports() -> dict[str, set[str]]:
    """Return the rooms from which each room imports; the modules of `GROUND` are left out."""
    used: dict[str, set[str]] = {room: set() for rooms in FLOORS for room in rooms}
    for module in modules():
        room = module.split(".")[0]
        if room in used:
            used[room] |= {other.split(".")[0] for other in imports(module)} - {room, *GROUND}
    return used


def diagram() -> str:
    """Return a Mermaid diagram of the rooms, with an arrow to each room that a room imports from.

    Arrows to rooms that are also reached through another room are left out.
    """
    used = room_imports()

    def reached(room: str) -> set[str]:
        return used[room].union(*(reached(other) for other in used[room]))

    lines = ["flowchart TD"]
    for floor in range(len(FLOORS) - 1, -1, -1):
        rooms = {room: text for room, text in FLOORS[floor].items() if used[room] or room in _users(used)}
        if rooms:
            lines.append(f"  subgraph floor{floor}[ ]")
            lines += [f'    {room}["<b>{room}</b><br/>{text}"]' for room, text in rooms.items()]
            lines.append("  end")
    for room, others in used.items():
        direct = {other for other in others if not any(other in reached(via) for via in others - {other})}
        lines += [f"  {room} --> {other}" for other in sorted(direct)]
    return "\n".join(lines) + "\n"


def _users(used: Mapping[str, set[str]]) -> set[str]:
    return set().union(*used.values())
