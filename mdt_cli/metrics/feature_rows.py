"""The order of a set's images that no file name enters, and the rows of features kept in it.

Axes: B images of a batch, K rows kept, W columns.
"""

import hashlib
import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

# Columns that are sorted at a time: the memory that sorting takes beside the rows.
COLUMNS = 64


class RowSample:
    """float32 rows of the `room` images with the smallest keys, while all images pass by once.

    The first image of some pixels has their digest for a key, its n-th copy a hash of the digest
    and n. So the pixels alone decide the order, copies lie as far apart as other images do, and
    any leading part is a random sample.
    """

    def __init__(self, room: int, widths: tuple[int, ...]) -> None:
        self.digests: list[bytes] = []
        self._keys: list[bytes] = []
        self._seen: dict[bytes, int] = {}
        self._room, self._widths = room, widths
        self._parts = tuple(torch.empty(room, width) for width in widths)
        self._images: list[int] = []  # which image each row is
        self._largest: list[tuple[int, int]] = []  # heap of (-key, row), once there is no room

    def add(self, digests: Sequence[bytes], rows_BW: Tensor) -> None:
        """Take in the next images in reading order; columns beyond the widths are left out."""
        begin = len(self.digests)
        for digest in digests:
            self._add_key(digest)
        if not self._room:
            return
        first = len(self._images)
        free = min(self._room - first, len(digests))
        self._put(slice(first, first + free), rows_BW[:free])
        self._images += range(begin, begin + free)
        for index in range(free, len(digests)):
            row = self._replaced_by(begin + index)
            if row is not None:
                self._put(row, rows_BW[index])

    def order(self) -> list[int]:
        """All images, by their positions in reading order."""
        return sorted(range(len(self._keys)), key=self._keys.__getitem__)

    def sort(self, order: Sequence[int]) -> tuple[Tensor, ...]:
        """[K,W] for each width, rows as in `order`, without a second copy of them."""
        row_of = {image: row for row, image in enumerate(self._images)}
        rows_K = torch.tensor([row_of[k] for k in order[: self._room]], dtype=torch.int64)
        for part in self._parts:
            for begin in range(0, part.shape[1], COLUMNS):
                columns = part[:, begin : begin + COLUMNS]
                columns.copy_(columns[rows_K])
        return self._parts

    def _add_key(self, digest: bytes) -> None:
        copy = self._seen.get(digest, 0)
        self._seen[digest] = copy + 1
        self.digests.append(digest)
        self._keys.append(
            hashlib.sha256(digest + copy.to_bytes(8, "little")).digest() if copy else digest
        )

    def _replaced_by(self, image: int) -> int | None:
        """The row of the largest key, which is the image's now; None where its own is larger."""
        if not self._largest:
            self._largest = [(self._negative(k), row) for row, k in enumerate(self._images)]
            heapq.heapify(self._largest)
        key, (largest, row) = self._negative(image), self._largest[0]
        if key < largest:
            return None
        heapq.heapreplace(self._largest, (key, row))
        self._images[row] = image
        return row

    def _negative(self, image: int) -> int:
        return -int.from_bytes(self._keys[image])

    def _put(self, where: slice | int, rows: Tensor) -> None:
        columns = rows[..., : sum(self._widths)].split(self._widths, -1)
        for part, chosen in zip(self._parts, columns, strict=True):
            part[where] = chosen
