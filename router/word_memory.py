"""What is known of the pieces of texts between spaces, remembered from one text to the next."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

# Remembered pieces: some 7 MB of ordinary text, 20 MB if somebody feeds the worst.
_MAX_PIECES = 32_768
_MAX_PIECE_CHARACTERS = 32


def packed(numbers: Sequence[int]) -> bytes:
    """Whole numbers as bytes, those of several pieces to be joined and ``unpacked`` at once."""
    return array("q", numbers).tobytes()


def unpacked(found: bytes) -> IntArray:
    """The numbers (n,) again."""
    return np.frombuffer(found, np.int64)


class WordMemory(dict[str, bytes]):
    """Bytes by piece, found when first asked for; holds a bounded number of them.

    Packed numbers, since bytes are joined and read as one array several times as fast as lists of
    numbers. Threads may share it: at worst they find the same twice.
    """

    def __init__(self, find: Callable[[str], bytes]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, piece: str) -> bytes:
        found = self._find(piece)
        if len(piece) <= _MAX_PIECE_CHARACTERS:
            if len(self) >= _MAX_PIECES:
                self.clear()
            self[piece] = found
        return found

    def of(self, text: str) -> bytes:
        """The bytes of all pieces of a text, in order.

        Only for what reads a text piece by piece: at a space or a line break nothing looks across.
        """
        return b"".join(map(self.__getitem__, text.replace("\n", " ").split(" ")))
