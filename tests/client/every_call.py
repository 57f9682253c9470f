"""Each method of the clients with what its answer must be; for the one that waits and the one for asyncio alike."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from tessera_client import AsyncTessera, Event, InvalidRequest, ItemWrite, NotFound, Tessera, TesseraError

Client = Tessera | AsyncTessera
ODD_IDS = ("a/b", "..", ".", "a b&c=d?#e", "Ünï%2Fcode", "x/history")
"""User ids that an address would take for something else."""


@dataclass(frozen=True)
class Case:
    """One use of a method.

    Attributes:
        call: asks.
        holds: looks at the answer, or at the error where that is the right one.
    """

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
    Case(
        "record_events",
        lambda c: c.record_events([Event(user_id="bob", item_id="item-1", id="e1")] * 2),
        lambda a: a.accepted == 2 and a.duplicates >= 1,
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
        "recommend",
        lambda c: c.recommend("nobody", n=2, explain="full"),
        lambda a: [one["item_id"] for one in a.explain["items"]] == list(a.item_ids),
    ),
    Case(
        "recommend",
        lambda c: c.recommend("reader", n=2, write_back_type="read", write_back_delay_s=0),
        lambda a: len(a.items) == 2,
    ),
    Case(
        "recommend",
        lambda c: c.recommend(history=["item-3"], write_back_type="read"),
        lambda a: isinstance(a, InvalidRequest) and "user_id" in str(a),
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
    Case("export_events", lambda c: c.export_events(BytesIO()), lambda a: a >= 1),
    Case("export_items", lambda c: c.export_items(BytesIO()), lambda a: a >= 30),
    Case("models", lambda c: c.models(), lambda a: a.served == "light-1" and a.models[0].metrics["recall@10"] == 0.5),
    Case("ready", lambda c: c.ready(), lambda a: a.status == "ready" and a.dependencies["redis"].ok),
    Case("latency", lambda c: c.latency(), lambda a: any(one.count for one in a.latencies)),
    Case("latest", lambda c: c.latest(n=2), lambda a: len(a.items) == 2),
    Case(
        "popular",
        lambda c: c.popular(window="7d", user_id="ann"),
        lambda a: a.window == "7d" or a.status == 503,
    ),
    Case(
        "why_not",
        lambda c: c.why_not("ann", "item-1", n=5, in_stock=False, exclude=["item-1"]),
        lambda a: a.verdict == "removed" and "exclude" in "".join(a.removed_by),
    ),
    Case("latency", lambda c: c.latency(5), lambda a: a.minutes == 5),
    Case("quality", lambda c: c.quality(3), lambda a: a.days == () or a.days[0].shown >= 0),
    Case(
        "change_blocks",
        lambda c: c.change_blocks("ann", block=["item-2", "nowhere"], unblock=["item-3"]),
        lambda a: (a.items, a.unknown) == (("item-2", "nowhere"), ("nowhere",)),
    ),
    Case("blocks", lambda c: c.blocks("ann"), lambda a: len(a.items) == 2),
    Case("items", lambda c: c.items(n=2, q="title 4"), lambda a: len(a.items) == 2 and a.next),
    Case(
        "put_item",
        lambda c: c.put_item("item-4", title="New", categories=("a", "b"), price=None, attributes={"brand": "X"}),
        lambda a: (a.title, a.categories, a.price, a.attributes) == ("New", ("a", "b"), None, {"brand": "X"}),
    ),
    Case(
        "patch_item",
        lambda c: c.patch_item("item-4", price=2.5, in_stock=False),
        lambda a: (a.title, a.price, a.in_stock) == ("New", 2.5, False),
    ),
    Case("item", lambda c: c.item("item-4"), lambda a: a.price == 2.5 and a.code),
    Case("delete_item", lambda c: c.delete_item("item-4"), lambda a: a.deleted),
    Case("item", lambda c: c.item("item-4"), lambda a: isinstance(a, NotFound)),
    Case(
        "write_items",
        lambda c: c.write_items(
            [
                *(ItemWrite("item-5", {"hidden": False}, "patch") for _ in range(600)),
                ItemWrite("lost", {"price": None}, "patch"),
                ItemWrite("item-4", {"title": "Back"}),
            ]
        ),
        lambda a: (a.accepted, [(r.row, r.item_id) for r in a.rejected]) == (601, [(600, "lost")]),
    ),
    Case("activate", lambda c: c.activate("light-1"), lambda a: a.version == "light-1"),
    Case("roll_back", lambda c: c.roll_back(), lambda a: a.type.endswith("model")),
    Case(
        "refresh",
        lambda c: c.refresh("stale", budget_users=5, budget_s=1.5),
        lambda a: a.type.endswith("no-refresh-worker"),
    ),
    Case("refreshes", lambda c: c.refreshes(), lambda a: (a.worker, a.jobs) == (False, ())),
    Case("refresh_job", lambda c: c.refresh_job("0" * 16), lambda a: isinstance(a, NotFound)),
    Case("cancel_refresh", lambda c: c.cancel_refresh("0" * 16), lambda a: isinstance(a, NotFound)),
    Case("forget_user", lambda c: c.forget_user("ann"), lambda a: a.existed),
    Case("history", lambda c: c.history("ann"), lambda a: a.items == ()),
]


def methods_of(kind: type[Client]) -> set[str]:
    """The calls of a client."""
    return {name for name in vars(kind) if not name.startswith("_") and name not in ("close", "aclose")}


def answered(call: Callable[[Any], Any], client: Tessera) -> Any:
    """The answer, or the error."""
    try:
        return call(client)
    except TesseraError as error:
        return error


async def awaited(call: Callable[[Any], Any], client: AsyncTessera) -> Any:
    """The answer of the asynchronous client, or the error."""
    try:
        return await call(client)
    except TesseraError as error:
        return error
