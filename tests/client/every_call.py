"""Each method of the clients with what its answer must be; for the one that waits and the one for asyncio alike."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tessera_client import AsyncTessera, Event, Tessera

Client = Tessera | AsyncTessera
ODD_IDS = ("a/b", "..", ".", "a b&c=d?#e", "Ünï%2Fcode", "x/history")
"""User ids that an address would take for something else."""


@dataclass(frozen=True)
class Case:
    """One use of a method: `call` asks, `holds` looks at the answer."""

    method: str
    call: Callable[[Any], Any]
    holds: Callable[[Any], bool]


def _reasons(answer: Any) -> set[str]:
    return {item.reason for item in answer.items}


CASES = [
    Case(
        "record_events",
        lambda c: c.record_events(
            Event(user_id="ann", item_id=item, timestamp=at)
            for item, at in (("item-9", 3), ("item-5", 1), ("item-7", 2), ("nowhere", 4))
        ),
        lambda a: (
            (a.accepted, [(r.row, r.item_id, r.reason) for r in a.rejected]) == (3, [(3, "nowhere", "unknown_item")])
        ),
    ),
    Case("history", lambda c: c.history("ann"), lambda a: a.items == ("item-5", "item-7", "item-9")),
    Case(
        "recommend",
        lambda c: c.recommend("ann", n=3, price_min=1, in_stock=True, category=["audio"], strict=False, explain=True),
        lambda a: a.user_id == "ann" and len(a.item_ids) == 3 and not a.degraded and a.explain["history_items"] == 3,
    ),
    Case("recommend", lambda c: c.recommend("ann", category="audio", n=2, offset=1), lambda a: a.items[0].rank == 2),
    Case(
        "recommend",
        lambda c: c.recommend("ann", only=["item-1", "item-2"], exclude="item-2"),
        lambda a: a.item_ids == ("item-1",),
    ),
    Case(
        "recommend",
        lambda c: c.recommend(history=["item-3"], n=4, max_per_prefix=1, prefix_levels=2, fresh=True),
        lambda a: a.user_id is None and len(a.items) == 4 and _reasons(a) == {"live"},
    ),
    Case("recommend", lambda c: c.recommend(q="socks 39", n=2), lambda a: a.source == "live" and not a.not_applied),
    Case(
        "recommend",
        lambda c: c.recommend("nobody", within="cache"),
        lambda a: a.not_applied == {"within": "no_entry"},
    ),
    Case(
        "recommend_many",
        lambda c: c.recommend_many((f"user-{number}" for number in range(201)), n=1),
        lambda a: [one.user_id for one in a] == [f"user-{number}" for number in range(201)],
    ),
    Case(
        "rank",
        lambda c: c.rank(["item-1", "item-40", "lost"], user_id="ann"),
        lambda a: {item.item_id for item in a.items} == {"item-1", "item-40"} and a.unknown == ("lost",),
    ),
    Case(
        "rank",
        lambda c: c.rank(["item-1", "item-40", "item-12"], history=["item-3", "item-13"]),
        lambda a: [item.item_id for item in a.items] == ["item-12", "item-1", "item-40"],
    ),
    Case("similar", lambda c: c.similar("item-1", n=3), lambda a: a.item_id == "item-1" and len(a.items) == 3),
    Case("popular", lambda c: c.popular(n=2, exclude=["item-1"]), lambda a: _reasons(a) == {"popular"}),
    Case("models", lambda c: c.models(), lambda a: a.served == "light-1" and a.models[0].metrics["recall@10"] == 0.5),
    Case("ready", lambda c: c.ready(), lambda a: a.status == "ready" and a.dependencies["redis"].ok),
    Case("latency", lambda c: c.latency(), lambda a: any(one.count for one in a.latencies)),
    Case("forget_user", lambda c: c.forget_user("ann"), lambda a: a.existed),
    Case("history", lambda c: c.history("ann"), lambda a: a.items == ()),
]


def methods_of(kind: type[Client]) -> set[str]:
    """The calls of a client."""
    return {name for name in vars(kind) if not name.startswith("_") and name not in ("close", "aclose")}


async def awaited(answer: Awaitable[Any]) -> Any:
    """An answer of the asynchronous client."""
    return await answer
