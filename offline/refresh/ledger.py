"""What a refresh of many users has done, so that it can go on after it was killed.

A hash in Redis: the plan, and for each finished shard the entries written and the users who know no item of the
version. A shard is entered after its entries are in Redis.
"""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from model_store.bundle import Bundle
from model_store.cache_keys import Keys
from model_store.errors import TesseraError
from offline.refresh.config import RefreshConfig

_TTL_S = 7 * 86_400
_PLAN_FIELD = "plan"


@dataclass(frozen=True)
class Plan:
    """What must be the same for one run to go on where another stopped.

    Attributes:
        k: items of each entry.
        beam_width: of the decodes.
        buckets: of the version's cache.
        buckets_per_shard: which shard has which number.
        candidates: items that a ranker orders; None without one.
        rank_weight: its share of the order.
    """

    k: int
    beam_width: int
    buckets: int
    buckets_per_shard: Annotated[int, Field(ge=1)]
    candidates: int | None = None
    rank_weight: float = 1.0

    @classmethod
    def of(cls, bundle: Bundle, config: RefreshConfig, buckets_per_shard: int) -> "Plan":
        """The plan of a refresh that starts now."""
        buckets = bundle.entry_layout.buckets
        return cls(config.k, config.beam_width, buckets, buckets_per_shard, config.candidates, config.rank_weight)

    @property
    def shards(self) -> int:
        """How many there may be; those without a user are none."""
        return -(-self.buckets // self.buckets_per_shard)


@dataclass(frozen=True, slots=True)
class ShardDone:
    """A finished shard.

    Attributes:
        written: entries.
        skipped: users who know no item of the version.
    """

    written: int
    skipped: int


@dataclass(frozen=True)
class Unfinished:
    """A refresh that was stopped, or is still running.

    Attributes:
        plan: its plan; None if it was begun by another Tessera.
        done: finished shards by number.
    """

    plan: Plan | None
    done: dict[int, ShardDone]


_PLANS = TypeAdapter(Plan)


class Ledger:
    """The ledger of one version.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        version: which is refreshed.
        partial: of some users, beside the one of all.
    """

    def __init__(self, redis: Any, keys: Keys, version: str, *, partial: bool = False) -> None:
        self._redis = redis
        self._key = keys.refresh_ledger(version, partial=partial)
        self._version = version

    def begin(self, plan: Plan) -> None:
        """Start from nothing."""
        self._redis.delete(self._key)
        self._redis.hset(self._key, _PLAN_FIELD, orjson.dumps(asdict(plan)))
        self._redis.expire(self._key, _TTL_S)

    def read(self) -> Unfinished | None:
        """What is there; None when there is nothing unfinished."""
        stored = self._redis.hgetall(self._key)
        if not stored:
            return None
        try:
            plan = _PLANS.validate_json(stored.pop(_PLAN_FIELD.encode(), b""))
        except ValidationError:
            plan = None
        done = {number: value for number, value in stored.items() if number.isdigit()}
        return Unfinished(plan, {int(number): ShardDone(*map(int, value.split())) for number, value in done.items()})

    def resume(self, plan: Plan) -> tuple[Plan, dict[int, ShardDone]] | None:
        """The plan of the run before, and the shards it has finished; None when there is nothing unfinished.

        Shards are counted as that run cut them, whatever the number of users is now.

        Raises:
            TesseraError: that run had other settings.
        """
        unfinished = self.read()
        if unfinished is None:
            return None
        before = unfinished.plan
        if before is None:
            raise self._other("was begun by another Tessera")
        if (before.candidates is None) != (plan.candidates is None):
            raise self._other("was begun without --rank" if before.candidates is None else "was begun with --rank")
        for name in ("k", "beam_width", "buckets", "candidates", "rank_weight"):
            if getattr(before, name) != getattr(plan, name):
                raise self._other(f"has {name} {getattr(before, name)}, not {getattr(plan, name)}")
        return before, unfinished.done

    def enter(self, number: int, done: ShardDone) -> None:
        """Note that a shard is finished."""
        self._redis.hset(self._key, str(number), f"{done.written} {done.skipped}")

    def close(self) -> None:
        """The whole is done: there is nothing to resume."""
        self._redis.delete(self._key)

    def _other(self, what: str) -> TesseraError:
        return TesseraError(
            f"refresh --resume: the unfinished refresh of {self._version} {what}; "
            "give the same settings, or start over without --resume"
        )
