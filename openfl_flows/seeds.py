"""Seeds for independent random streams, named by what they are for."""

import hashlib
import json


def derived_seed(*keys: int | str) -> int:
    """A 63-bit seed that depends on every key and on their order.

    Streams are named, not drawn one from another, so that the seed of one step at one site does not
    depend on how many numbers another has used.
    """
    digest = hashlib.sha256(json.dumps(keys).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
