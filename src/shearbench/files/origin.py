"""Where a file comes from: the rule that made it, what that depended on, and which of the run's files it is.

Nothing but the standard library is used here: the workflow is planned where no other package is.
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
_FAR = 65536  # bytes from either end of a file within which its record is


@dataclass(frozen=True)
class Origin:
    """What a file of a run is.

    Attributes
    ----------
    rule : str
        The rule that makes it.
    depends : str
        Digest of the options, code and inputs that decide its content.
    names : dict
        Which of the rule's files it is: population, split, noise, estimator, seed, as far as they apply.
    """

    rule: str
    depends: str
    names: dict[str, Any] = field(default_factory=dict)

    def check(self, path: str | os.PathLike[str], found: Origin | None) -> None:
        """Compare with the origin that a file carries.

        Raises
        ------
        ContractError
            It carries none, or another.
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
                f"{found.depends} (it was made with others, or belongs to another run)",
                self.depends,
                self.rule,
            )


def side_file(path: str | os.PathLike[str]) -> Path:
    """Return the hidden file that holds the record of a text file."""
    path = Path(path)
    return path.with_name(f".{path.name}.json")


def record(origin: Origin | None, **content: Any) -> str:
    """Return a record to be kept with a file: JSON in one line, with a checksum of itself.

    Parameters
    ----------
    origin : Origin or None
        None for a file that no rule makes.
    **content
        Plain values.
    """
    body = json.dumps({"shearbench": 1, "origin": origin and asdict(origin), **content})
    return f'{body[:-1]}, "checksum": "{hashlib.sha256(body.encode()).hexdigest()}"}}'


def parse_record(text: str | bytes) -> dict[str, Any]:
    """Return what `record` wrote, with its origin as an `Origin`.

    Raises
    ------
    ValueError
        It is no record, or not as it was written.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or found.get("shearbench") != 1:
        raise ValueError("no record of an origin")
    checksum = found.pop("checksum", None)
    if hashlib.sha256(json.dumps(found).encode()).hexdigest() != checksum:
        raise ValueError("the record of the origin is not as it was written")
    found["origin"] = found["origin"] and Origin(**found["origin"])
    return found


def read_origin(path: str | os.PathLike[str]) -> Origin | None:
    """Return the origin that a file carries, without a look at its contents; None where it carries none.

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
