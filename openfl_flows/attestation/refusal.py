"""The one error of everything that looks at evidence: a peer's bytes never raise another."""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What reading a peer's bytes as certificates raises, sooner or later: parts are read when used."""

_LONGEST = 600


class RefusedEvidence(ValueError):
    """Evidence is not accepted; one line says what was found and what was expected."""

    def __init__(self, reason: str) -> None:
        super().__init__(one_line(reason))


def one_line(text: str) -> str:
    """``text`` for a terminal and a log, whoever wrote it: printable ASCII, one line, not long."""
    line = " ".join(text.split()).encode("ascii", "backslashreplace").decode()
    shown = "".join(character if character.isprintable() else "?" for character in line)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} ..."
