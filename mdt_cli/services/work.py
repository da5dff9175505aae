"""Share out the shards of a job among the processes of a launcher, and wait for those of others.

Processes share nothing but a folder: each writes its own shards, and the first one polls for the
files of the others. So no process waits at a barrier, and a killed one is resumed by itself.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

SECONDS_BETWEEN_POLLS = 0.2


@dataclass(frozen=True)
class Share:
    """The part of process `rank` of `of`: every `of`-th shard."""

    rank: int
    of: int

    @classmethod
    def from_environment(cls) -> "Share":
        """What torchrun and accelerate launch set; one process without them."""
        rank, of = (int(os.environ.get(k, d)) for k, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
        return cls(rank, of)

    def mine(self, count: int, before: int = 0) -> range:
        """This process's shards of `count`, where `before` shards were shared out earlier."""
        return range((self.rank - before) % self.of, count, self.of)

    def of_whom(self, index: int, before: int = 0) -> int:
        """The rank of the process that makes a shard."""
        return (index + before) % self.of

    def others(self, count: int, before: int = 0) -> list[int]:
        """The shards of the other processes."""
        mine = self.mine(count, before)
        return [index for index in range(count) if index not in mine]


def poll(
    shards: Sequence[int], absent: Callable[[Sequence[int]], Sequence[int]]
) -> Iterator[Sequence[int]]:
    """Yield those of `shards` that `absent` still returns, and sleep, until it returns none.

    The caller may stop in between: nothing is held.
    """
    missing = absent(shards)
    while missing:
        yield missing
        time.sleep(SECONDS_BETWEEN_POLLS)
        missing = absent(missing)
