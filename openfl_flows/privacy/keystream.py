"""Secret random numbers: all from one key, the same whenever the key is."""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from openfl_flows.state import Array

KEY_BYTES = 32

_NONCE = bytes(16)


class Keystream:
    """ChaCha20's keystream (RFC 8439), for keys that are used for one stream alone.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(algorithms.ChaCha20(key, _NONCE), mode=None).encryptor()

    def words(self, count: int) -> Array:
        """The next ``count`` words: (count,) uint64."""
        if not count:
            return np.empty(0, np.uint64)
        stream = self._cipher.update(bytes(8 * count))
        return np.frombuffer(stream, "<u8").astype(np.uint64, copy=False)

    def normal(self, count: int) -> Array:
        """The next ``count`` standard normal numbers: (count,) float64.

        By Box and Muller (1958), of uniform numbers with 53 bits, none of them 0; so no number is
        beyond 8.7.
        """
        half = -(-count // 2)
        uniform = ((self.words(2 * half) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log(uniform[:half]))
        angle = 2.0 * np.pi * uniform[half:]
        both: Array = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return both[:count]
