"""Numbers with a unit: whether one is where it can be, and which unit it looks like if not."""

import math
from array import array

import numpy as np

from openfl_flows.data.schema.findings import Finding, refusal
from openfl_flows.data.schema.limits import Quantity

OTHER_UNITS = {
    "eV": {"Hartree": 27.211386246, "meV": 1e-3, "kcal/mol": 0.0433641, "kJ/mol": 0.01036427},
    "D": {"mD": 1e-3, "e nm": 48.0320},
    "A": {"nm": 10.0, "pm": 0.01},
}
"""By unit: others that it is confused with, and how many of it one of them is (CODATA 2018)."""


ANY_NUMBER = Quantity(unit="", least=-math.inf, most=math.inf)
"""What a value is where nobody has agreed on a quantity."""


class Labels:
    """Values of one quantity over all rows: 8 bytes for each.

    Attributes:
        known: Values that are there.
    """

    def __init__(self, key: str, quantity: Quantity) -> None:
        self.key = key
        self._quantity = quantity
        self.known = array("d")

    def findings(self, file: str, rows: int) -> list[Finding]:
        """What is wrong with all values together.

        Args:
            file: Name of the file.
            rows: How many there could be.
        """
        found = []
        quantity = self._quantity
        missing = 1 - len(self.known) / rows if rows else 0.0
        if missing > quantity.missing:
            what = f"at most {quantity.missing:.2%} missing"
            found.append(Finding("missing", file, 0, "", self.key, f"{missing:.2%}", what))
        if quantity.median is not None and len(self.known):
            low, high = quantity.median
            middle = float(np.median(np.frombuffer(self.known, np.float64)))
            if not low <= middle <= high:
                what = f"a median of {low:g} to {high:g} {quantity.unit}"
                found.append(Finding("median", file, 0, "", self.key, f"{middle:g}", what))
        return found


def read_quantity(cell: object, quantity: Quantity) -> float | None:
    """The number of a cell; None where it is empty or says ``nan``.

    Raises:
        PydanticCustomError: It is none, or outside its range.
    """
    text = "" if cell is None else str(cell).strip()
    if text.lower() in ("", "nan"):
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise refusal("number", "a finite number, or nothing where it is missing")
    if quantity.holds(value):
        return value
    expected = f"{quantity.least:g} to {quantity.most:g} {quantity.unit}"
    for unit, factor in OTHER_UNITS.get(quantity.unit, {}).items():
        if quantity.holds(value * factor):
            raise refusal("unit", f"{expected}; it is {value * factor:.3g} if given in {unit}")
    raise refusal("range", expected)
