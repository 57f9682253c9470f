"""Ids that nobody can guess and no two answers share."""

import os

_BLOCK_BYTES = 4096


class RandomIds:
    """Hexadecimal ids from the system's generator, asked once for many: a call for each id is a call of the kernel.

    Args:
        size: random bytes of an id; it has twice as many characters.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._block = b""
        self._at = 0

    def next(self) -> str:
        """An id that was never given before."""
        start = self._at
        end = start + self._size
        if end > len(self._block):
            self._block = os.urandom(_BLOCK_BYTES)
            start, end = 0, self._size
        self._at = end
        return self._block[start:end].hex()
