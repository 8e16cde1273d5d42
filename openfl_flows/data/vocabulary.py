"""Classes of atoms: an element, alone or with the formal charge that its name ends in."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

_NAME = re.compile(r"([A-Z][a-z]?)([+-][1-9]?)?")


class AtomClass(NamedTuple):
    """What an atom class stands for: an element's symbol and a formal charge."""

    element: str
    charge: int


@cache
def atom_class(name: str) -> AtomClass:
    """Read a name: ``N``, ``N+``, ``O-``, ``S+2``.

    Raises:
        ValueError: It names no element with a charge.
    """
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in _elements():
        raise ValueError(
            f"vocabulary holds {name!r}, expected an element, with its charge if any: N, N+, O-"
        )
    sign = match[2] or ""
    return AtomClass(match[1], int(sign if len(sign) > 1 else f"{sign}1") if sign else 0)


def class_name(element: str, charge: int) -> str:
    """The name of an atom class, as :func:`atom_class` reads it."""
    sign = "+" if charge > 0 else "-"
    return element + (f"{sign}{abs(charge) if abs(charge) > 1 else ''}" if charge else "")


def has_charges(vocabulary: Sequence[str]) -> bool:
    """Whether a class has a formal charge, so that charges are represented and not dropped."""
    return any(atom_class(name).charge for name in vocabulary)


@cache
def class_index(vocabulary: tuple[str, ...]) -> Mapping[AtomClass, int]:
    """The position of each class in the vocabulary."""
    return MappingProxyType({atom_class(name): i for i, name in enumerate(vocabulary)})


def check_vocabulary(vocabulary: Sequence[str]) -> None:
    """Refuse a vocabulary that is empty, repeats itself or holds what is no atom class.

    Raises:
        ValueError: It is such.
    """
    classes = [atom_class(name) for name in vocabulary]
    if not classes or len(set(classes)) != len(classes):
        raise ValueError(f"vocabulary is {tuple(vocabulary)}; expected distinct element symbols")


@cache
def _elements() -> frozenset[str]:
    # An aggregator, which has no RDKit, reads what the parties agreed on and no molecule.
    from rdkit import Chem

    return frozenset(Chem.GetPeriodicTable().GetElementSymbol(number) for number in range(1, 119))
