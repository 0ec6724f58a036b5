"""The figures there are: each is a module of this package that has an `Entry` and a function that draws it.

A module assigns ``ENTRY = Entry(...)``, of constants alone, and defines ``draw(*tables, ...)``, whose first
arguments are the files that the entry reads. A new file is a new figure: there is no list to keep.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Entry:
    """What is to be known of a figure to plan it, to show it in the report and to quote it in the paper.

    Attributes
    ----------
    category : str
        Where the report shows it.
    caption : str
        What it shows, in reStructuredText.
    reads : tuple of str
        Files below ``metrics/``, in the order of the arguments of `draw`; ``{study}`` stands for a study's
        name. A run that does not make them does not have the figure.
    reads_if_made : tuple of str
        Further files, which not every run makes.
    each : {'run', 'population', 'study'}
        What there is one figure for. That of a population is drawn by ``draw(*tables, population)``, that
        of a study by ``draw(*tables, question, name)``.
    """

    category: str
    caption: str
    reads: tuple[str, ...]
    reads_if_made: tuple[str, ...] = ()
    each: Literal["run", "population", "study"] = "run"


def entries() -> dict[str, Entry]:
    """Return the entry of each figure by its name, in the order of the report.

    They are read from the source: the workflow plans where matplotlib may not be installed.
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
