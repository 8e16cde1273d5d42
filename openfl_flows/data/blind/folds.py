"""From a group's name to its part: HMAC-SHA256, and nothing else.

Every party that has the same secret gives a group the same number, whatever its process, platform,
version of Python, or other data. Without the secret nobody can tell which groups a published figure
was tested on, or ask a model about them on purpose.

The number of a group is the first eight bytes, big endian, of
``HMAC-SHA256(secret, kind NUL name)``, over 2**64: uniform in [0, 1). The lowest numbers are tested
on, the next validated on. The scheme is MELLODDY-TUNER's (Heyndrickx et al., J. Chem. Inf. Model.
64 (2024) 2331), with the digest itself in place of a generator of random numbers that it seeds,
which another version of Python may change.

This file needs nothing beyond the standard library, and runs in every Python from 3.8 on.
"""

import hashlib
import hmac
from typing import Tuple  # noqa: UP035

PARTS = ("train", "val", "test")
"""Names of the parts."""


def group_number(secret: bytes, kind: str, group: str) -> float:
    """Where a group lies between 0 and 1.

    Args:
        secret: The parties' key.
        kind: What the group is of, so that a protein and a molecule of one name differ.
        group: Its name.
    """
    digest = hmac.new(secret, f"{kind}\0{group}".encode(), hashlib.sha256).digest()
    # 53 bits are what a float holds: rounding the whole 64 could give 1.0.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def part_of(number: float, fractions: Tuple[float, float, float]) -> str:  # noqa: UP006
    """The part of a group with this number.

    Args:
        number: See :func:`group_number`.
        fractions: Shares of training, validation and test.
    """
    _, val, test = fractions
    if number < test:
        return "test"
    return "val" if number < test + val else "train"


def commitment(secret: bytes) -> str:
    """What a key can be recognised by and not be found from: 16 hexadecimal digits."""
    return hmac.new(secret, b"openfl-flows blind split", hashlib.sha256).hexdigest()[:16]
