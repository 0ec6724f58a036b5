"""LaTeX from plain values: escaped text, numbers, noise levels, tables."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from shearbench.evaluation.rounding import MISSING, shown

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "²": r"\texttwosuperior{}",
    "α": r"$\alpha$",
    "σ": r"$\sigma$",
    "φ": r"$\varphi$",
    "⟨": r"$\langle$",
    "⟩": r"$\rangle$",
    "ĝ": r"$\hat g$",
    "–": "--",
    "—": "---",
}


def escape(text: object) -> str:
    """Escape text for LaTeX (pdflatex, T1 fonts); a character that it cannot print becomes ``?``."""
    return "".join(_SPECIAL.get(char) or _printable(char) for char in str(text))


def _printable(char: str) -> str:
    if char.isspace() or not char.isprintable():
        return " "
    return char if char.isascii() or (char.isalpha() and ord(char) < 256) else "?"


def number(value: float | None, error: float | None = None, power: int | None = None) -> str:
    """Return a value and its error in math mode, rounded together (see `evaluation.rounding.shown`)."""
    text = shown(value, error, latex=True, power=power)
    return text if text == MISSING else f"${text}$"


def power_of_ten(value: float) -> str:
    r"""Return a number such as a noise level as ``$10^{-5}$`` or ``$3 \times 10^{-4}$``."""
    exact = Decimal(f"{value:g}").normalize()
    mantissa, exponent = exact.scaleb(-exact.adjusted()), exact.adjusted()
    if exponent in (0, 1):
        return f"${exact:f}$"
    return f"$10^{{{exponent}}}$" if mantissa == 1 else rf"${mantissa:f} \times 10^{{{exponent}}}$"


def longtable(
    columns: str,
    head: Sequence[Sequence[str]],
    body: Sequence[Sequence[str] | str | None],
    caption: str,
    label: str,
    size: str = "footnotesize",
    space: int = 4,
) -> str:
    r"""Return a table that may run over pages, in the style of the booktabs package.

    Parameters
    ----------
    columns : str
        LaTeX column types.
    head : sequence of rows
        Head of the table, repeated on every page.
    body : sequence of rows
        A list is the cells of a row, a string the heading of a group of rows, None a horizontal rule.
    caption, label : str
        In LaTeX.
    size : str
        Font size command, without backslash.
    space : int
        Half of the space between columns [pt].

    Returns
    -------
    str
    """
    lines = [
        f"\\begingroup\\{size}\\setlength{{\\tabcolsep}}{{{space}pt}}"
        r"\setlength{\LTcapwidth}{\textwidth}",
        f"\\begin{{longtable}}{{@{{}}{columns}@{{}}}}",
        f"\\caption{{{caption}}}\\label{{{label}}}\\\\",
        r"\toprule",
        *[_row(cells) for cells in head],
        r"\midrule",
        r"\endfirsthead",
        r"\toprule",
        *[_row(cells) for cells in head],
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
    ]
    for item in body:
        if item is None:
            lines.append(r"\midrule")
        elif isinstance(item, str):
            lines.append(rf"\addlinespace\multicolumn{{{len(head[0])}}}{{@{{}}l}}{{{item}}}\\*")
        else:
            lines.append(_row(item))
    return "\n".join([*lines, r"\end{longtable}", r"\endgroup", ""])


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
