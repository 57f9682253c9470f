"""Refresh one shard, and enter it in the ledger."""

from collections.abc import Sequence

from model_store.decoders.protocol import Decoded
from offline.refresh.ledger import Ledger, ShardDone
from offline.refresh.user_plan import Shard
from offline.refresh.user_refresh import Reading, UserRefresh


class ShardRefresh:
    """Refreshes shards. Doing one twice does no harm.

    Args:
        users: does the work.
        ledger: where a finished shard is noted.
        forget_departed: whether shards are of all users: entries of others go if they have no history.
    """

    def __init__(self, users: UserRefresh, ledger: Ledger, *, forget_departed: bool) -> None:
        self._users, self._ledger, self._forget_departed = users, ledger, forget_departed

    def refresh(self, shard: Shard) -> ShardDone:
        """The whole of it.

        Raises:
            RedisError: Redis fails or is full; some entries may have been written, the ledger knows nothing of them.
        """
        reading = self.read(shard)
        return self.finish(shard, reading, self.decode(reading))

    def read(self, shard: Shard) -> Reading:
        """What the decode begins with.

        Raises:
            RedisError: Redis fails.
        """
        return self._users.read(shard.users)

    def decode(self, reading: Reading) -> list[list[Decoded]]:
        """The lists of the known users."""
        return self._users.decode(reading)

    def finish(self, shard: Shard, reading: Reading, lists: Sequence[list[Decoded]]) -> ShardDone:
        """Write the lists, then the ledger.

        Raises:
            RedisError: Redis fails or is full; some entries may have been written, the ledger knows nothing of them.
        """
        written = self._users.write(reading, lists)
        if self._forget_departed:
            self._users.forget_departed(shard.buckets, shard.users)
        done = ShardDone(written, len(shard.users) - written)
        self._ledger.enter(shard.number, done)
        return done
