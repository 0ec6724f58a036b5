"""The origin of a file: the rule that made it, a digest of all it depends on, and its place in the run.

This module uses the standard library alone, because the workflow can be planned without other packages.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shearbench.errors import ContractError

_MARK = '{"shearbench": 1, '
_FAR = 65536  # bytes at either end of a file that are searched for its record


@dataclass(frozen=True)
class Origin:
    """The origin of a file.

    Attributes
    ----------
    rule : str
        The rule that makes the file.
    depends : str
        Digest of the options, code and inputs that determine the file's content.
    names : dict
        Names that tell the file from the rule's other files: population, split, noise, estimator and seed, as
        far as they apply.
    """

    rule: str
    depends: str
    names: dict[str, Any] = field(default_factory=dict)

    def check(self, path: str | os.PathLike[str], found: Origin | None) -> None:
        """Compare this origin, which is expected, with the one that a file carries.

        Parameters
        ----------
        path : path-like
            The file, for error messages.
        found : Origin or None
            The origin in the file.

        Raises
        ------
        ContractError
            The file carries no origin, or another one.
        """
        if found is None:
            raise ContractError.of(
                path,
                "origin",
                "none (it was made by an earlier version, or not by this workflow)",
                f"that of rule '{self.rule}'",
                self.rule,
            )
        for name in self.names | found.names:
            if found.names.get(name) != self.names.get(name):
                raise ContractError.of(
                    path, name, repr(found.names.get(name)), repr(self.names.get(name)), self.rule
                )
        if found.rule != self.rule:
            raise ContractError.of(path, "rule", f"'{found.rule}'", f"'{self.rule}'", self.rule)
        if found.depends != self.depends:
            raise ContractError.of(
                path,
                "digest of options and code",
                f"{found.depends} (the file was made with other options or code, or for another run)",
                self.depends,
                self.rule,
            )


def side_file(path: str | os.PathLike[str]) -> Path:
    """Return the hidden file that holds the record of a text file."""
    path = Path(path)
    return path.with_name(f".{path.name}.json")


def record(origin: Origin | None, **content: Any) -> str:
    """Return a record to store with a file: JSON in one line, with a checksum of the record.

    Parameters
    ----------
    origin : Origin or None
        None for a file that no rule makes.
    **content
        Further entries, of plain values, such as checksums of the file's data.

    Returns
    -------
    str
    """
    body = json.dumps({"shearbench": 1, "origin": origin and asdict(origin), **content})
    return f'{body[:-1]}, "checksum": "{hashlib.sha256(body.encode()).hexdigest()}"}}'


def parse_record(text: str | bytes) -> dict[str, Any]:
    """Return the entries of a record, with ``origin`` as an `Origin` or None.

    Raises
    ------
    ValueError
        The text is no record, or its checksum is wrong.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or found.get("shearbench") != 1:
        raise ValueError("it is no record of an origin")
    checksum = found.pop("checksum", None)
    if hashlib.sha256(json.dumps(found).encode()).hexdigest() != checksum:
        raise ValueError("its checksum is wrong")
    found["origin"] = found["origin"] and Origin(**found["origin"])
    return found


def read_origin(path: str | os.PathLike[str]) -> Origin | None:
    """Return the origin that a file carries, or None; the file's contents are not checked.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    path = Path(path)
    if path.suffix in (".parquet", ".h5", ".pt"):
        with open(path, "rb") as file:
            ends = file.read(_FAR)
            file.seek(max(file.tell(), file.seek(0, os.SEEK_END) - _FAR))
            ends += file.read()
        start = ends.find(_MARK.encode())
        text = ends[start:].decode(errors="replace") if start >= 0 else ""
    else:
        side = side_file(path)
        text = side.read_text(encoding="utf-8", errors="replace") if side.exists() else ""
    try:
        end = json.JSONDecoder().raw_decode(text)[1]
        return parse_record(text[:end])["origin"]
    except (ValueError, TypeError):
        return None
