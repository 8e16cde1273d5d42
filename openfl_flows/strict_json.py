"""JSON that says one thing only: no key twice, no NaN, and one way to write it."""

import hashlib
import json
from typing import Any, NoReturn


def canonical(document: object) -> bytes:
    """JSON with sorted keys, without spaces, in ASCII.

    Raises:
        ValueError: It holds NaN or infinity.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def digest_of(document: object) -> str:
    """SHA-256 of a document's canonical form, hexadecimal.

    Raises:
        ValueError: It holds NaN or infinity.
    """
    return hashlib.sha256(canonical(document)).hexdigest()


def parse(content: bytes) -> Any:
    """The document in ``content``.

    Raises:
        ValueError: It is not JSON in UTF-8, a key occurs twice in an object, a number is NaN or
            infinite, or it is nested without measure.
    """
    try:
        return json.loads(
            content.decode(), object_pairs_hook=_without_repetition, parse_constant=_refuse
        )
    except RecursionError:
        raise ValueError("nested too deeply, expected a plain document") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not readable as UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not readable as JSON: {error}") from None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} occurs twice")
        found[key] = value
    return found


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"a number is {number}, expected finite ones")
