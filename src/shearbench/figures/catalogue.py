"""List of the figures: each is a module of this package with an `Entry` and a function that draws it.

A module assigns ``ENTRY = Entry(...)``, with constants only, and defines ``draw(*tables, ...)``, whose first
arguments are the files that the entry reads. A new module is a new figure; no list has to be edited.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Entry:
    """Description of a figure for the workflow, the report and the paper.

    Attributes
    ----------
    category : str
        Heading under which the report shows it.
    caption : str
        In reStructuredText: plotted quantities, symbols and error bars.
    reads : tuple of str
        Files in ``metrics/``, in the order of the arguments of `draw`; ``{study}`` is replaced by the name of
        a study, ``{search}`` by that of a search. A run that does not make these files does not draw the
        figure.
    reads_if_made : tuple of str
        Further files, passed to `draw` if the run makes them.
    each : str
        ``run``: one figure shows the run. ``population``, ``network`` (of those that are examined from
        inside, named as ``exp_gauss_shearnet``), ``observation`` (the stamps of a user), ``study``,
        ``search``: one figure for each of them. ``studies``, ``morphology``, ``frameworks``: one figure
        shows all studies, the classification by morphology, the comparison of frameworks. For a population,
        a network or an observation, the call is ``draw(*tables, name)``; for a study, ``draw(*tables,
        question, name)``.
    """

    category: str
    caption: str
    reads: tuple[str, ...]
    reads_if_made: tuple[str, ...] = ()
    each: Literal[
        "run",
        "population",
        "network",
        "observation",
        "study",
        "studies",
        "search",
        "morphology",
        "frameworks",
    ] = "run"


def entries() -> dict[str, Entry]:
    """Return the entry of each figure by its name, in the order of the report.

    The entries are read from the source code without importing it, because the workflow may be planned where
    matplotlib is not installed.
    """
    found = {}
    for path in Path(__file__).parent.glob("*.py"):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if (
                isinstance(statement, ast.Assign)
                and ast.unparse(statement.targets[0]) == "ENTRY"
                and isinstance(statement.value, ast.Call)
            ):
                given = {str(word.arg): ast.literal_eval(word.value) for word in statement.value.keywords}
                found[path.stem] = Entry(**given)
    return dict(sorted(found.items(), key=lambda item: (item[1].category, item[0])))
