"""Rounding of a value and its error for tables and texts."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Context, Decimal

MISSING = "--"
_EXACT = Context(prec=800, rounding=ROUND_HALF_EVEN)  # digits enough for all float64
_FIXED = range(-2, 5)  # decimal exponents written without a power of ten


def round_to_error(value: float, error: float, digits: int = 2) -> tuple[Decimal, Decimal]:
    """Round an error to a number of significant digits, and its value to the same place.

    Parameters
    ----------
    value : float
        Finite.
    error : float
        Finite, > 0.
    digits : int
        Significant digits of the error, >= 1.

    Returns
    -------
    value, error : decimal.Decimal
        Both are rounded to the same decimal place, half to even, from the shortest decimal number that
        represents the float.
    """
    rounded = round_significant(error, digits)
    place = rounded.as_tuple().exponent
    assert isinstance(place, int)
    return _unsigned_zero(Decimal(repr(float(value))).quantize(_unit(place), context=_EXACT)), rounded


def round_significant(value: float, digits: int = 3) -> Decimal:
    """Round a finite number to significant digits; zero is ``Decimal(0)``."""
    exact = Decimal(repr(float(value)))
    if not exact:
        return Decimal(0)
    rounded = exact.quantize(_unit(exact.adjusted() - digits + 1), context=_EXACT)
    if rounded.adjusted() > exact.adjusted():  # 0.0996 became 0.100, one digit too many
        rounded = rounded.quantize(_unit(exact.adjusted() - digits + 2), context=_EXACT)
    return rounded


def shown(
    value: float | None,
    error: float | None = None,
    *,
    latex: bool = False,
    power: int | None = None,
    digits: int = 3,
) -> str:
    """Return a number as text: ``2.10 ± 0.32``, ``(1.234 ± 0.012)e-04``, or the same in LaTeX's math mode.

    Parameters
    ----------
    value : float or None
    error : float or None
        The error is rounded to two significant digits, the value to the same decimal place. If the error is
        missing, zero or not finite, only the value is shown.
    latex : bool
        Whether to write for LaTeX's math mode.
    power : int, optional
        Show the number in units of this power of ten, which is not written (the heading of a table has it).
        By default, a long number is written with a power of ten.
    digits : int
        Significant digits of a value without an error.

    Returns
    -------
    str
        ``--`` for None, NaN and infinity.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    parts: tuple[Decimal, ...]
    if error is None or not math.isfinite(error) or error <= 0:
        parts = (round_significant(value, digits),)
    else:
        parts = round_to_error(value, error)
    leading = max((part.adjusted() for part in parts if part), default=0)
    shift = power if power is not None else (0 if leading in _FIXED else leading)
    text = (r" \pm " if latex else " ± ").join(f"{part.scaleb(-shift, context=_EXACT):f}" for part in parts)
    if power is not None or shift == 0:
        return text
    if len(parts) > 1:
        text = f"({text})"
    return rf"{text} \times 10^{{{shift}}}" if latex else f"{text}e{shift:+03d}"


def _unit(place: int) -> Decimal:
    return Decimal(1).scaleb(place, context=_EXACT)


def _unsigned_zero(value: Decimal) -> Decimal:
    return value if value else value.copy_abs()
