"""A million file names in little memory."""

from array import array
from collections.abc import Iterable, Sequence
from typing import SupportsIndex, overload


class Names(Sequence[str]):
    """An immutable sequence of texts, held as one block of bytes.

    The 1.28 million file names of ImageNet take 55 MB here and 115 MB as a list of str. A worker process that
    was forked reads them without copying memory, whereas reading a str writes its reference count.
    """

    __slots__ = ("_block", "_ends")

    def __init__(self, names: Iterable[str]) -> None:
        self._block, self._ends = bytearray(), array("Q", [0])
        for name in names:
            # Names that are no UTF-8 reach Python with lone surrogates, and leave it with the same.
            self._block += name.encode("utf-8", "surrogatepass")
            self._ends.append(len(self._block))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        return self._block[self._ends[row] : self._ends[row + 1]].decode("utf-8", "surrogatepass")
