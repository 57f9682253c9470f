"""Every call of the API as a plan, for both clients."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

from tessera_client.admin_answers import (
    Activation,
    Latencies,
    Models,
    Quality,
    Readiness,
    RefreshJob,
    RefreshJobs,
)
from tessera_client.answers import (
    Blocks,
    DeletedItem,
    Forgotten,
    History,
    Item,
    ItemsPage,
    LatestItems,
    PopularItems,
    Ranking,
    Recommendation,
    Recommendations,
    RecordedEvents,
    RejectedEvent,
    RejectedWrite,
    SimilarItems,
    WhyNot,
    WrittenItems,
)
from tessera_client.errors import InvalidField, TesseraError
from tessera_client.exchange import Clock, Limits, Plan, Request, ask, encoded, path_of
from tessera_client.options import (
    CatalogueOptions,
    Event,
    FilterOptions,
    ItemFields,
    ItemListOptions,
    ItemWrite,
    PopularOptions,
    RecommendOptions,
    RefreshOptions,
)

T = TypeVar("T")

_USERS_PER_REQUEST = 100
_ROWS_PER_REQUEST = 500
_ROW_BYTES_PER_REQUEST = 256 * 1024
_LISTS = ("category", "exclude", "only", "users")
_KEPT_OUT_OF_ADDRESSES = ("q", "only", "exclude")
"""Words of a query, which proxies would log, and lists that may be too long for an address."""


class Calls:
    """The calls of one client.

    Args:
        limits: of each.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def recommend(
        self, user_id: str | None, history: Sequence[str] | None, options: RecommendOptions
    ) -> Plan[Recommendation]:
        """GET /recommend/{user_id}, or POST /recommend where the request is none for an address."""
        given = _given(options)
        if user_id is not None and history is None and not given.keys() & set(_KEPT_OUT_OF_ADDRESSES):
            return self._get(path_of("recommend", user_id), Recommendation, given)
        body = given | ({} if user_id is None else {"user_id": user_id})
        return self._post("/recommend", Recommendation, body | ({} if history is None else {"history": list(history)}))

    def recommend_many(self, user_ids: Iterable[str], options: RecommendOptions) -> Plan[tuple[Recommendation, ...]]:
        """POST /recommend/batch, a hundred users at a time."""
        clock, given = Clock(self._limits), _given(options)
        answers: list[Recommendation] = []
        users = iter(user_ids)
        while some := list(islice(users, _USERS_PER_REQUEST)):
            request = _json_request("POST", "/recommend/batch", given | {"user_ids": some})
            answers += (yield from ask(request, Recommendations, self._limits, clock)).answers
        return tuple(answers)

    def rank(
        self, items: Sequence[str], user_id: str | None, history: Sequence[str] | None, q: str | None, by: str | None
    ) -> Plan[Ranking]:
        """POST /rank."""
        listed = None if history is None else list(history)
        body = {"items": list(items), "user_id": user_id, "history": listed, "q": q, "by": by}
        return self._post("/rank", Ranking, {name: value for name, value in body.items() if value is not None})

    def similar(self, item_id: str, options: ItemListOptions) -> Plan[SimilarItems]:
        """GET /similar/{item_id}."""
        return self._get(path_of("similar", item_id), SimilarItems, _given(options))

    def popular(self, options: PopularOptions) -> Plan[PopularItems]:
        """GET /popular."""
        return self._get("/popular", PopularItems, _given(options))

    def record_events(self, events: Iterable[Event], deadline_s: float | None) -> Plan[RecordedEvents]:
        """POST /events, in requests of bounded size."""
        limits = self._limits if deadline_s is None else replace(self._limits, deadline_s=deadline_s)
        clock = Clock(limits)
        accepted, duplicates, sent = 0, 0, 0
        rejected: list[RejectedEvent] = []
        for rows in _chunks(event.as_json() for event in events):
            request = Request("POST", "/events", body=b"[" + b",".join(rows) + b"]")
            try:
                answer = yield from ask(request, RecordedEvents, limits, clock)
            except TesseraError as error:
                _move(error, sent)
                raise
            accepted += answer.accepted
            duplicates += answer.duplicates
            rejected += [replace(one, row=one.row + sent) for one in answer.rejected]
            sent += len(rows)
        return RecordedEvents(accepted, tuple(rejected), duplicates)

    def history(self, user_id: str) -> Plan[History]:
        """GET /users/{user_id}/history."""
        return self._get(path_of("users", user_id, "history"), History)

    def forget_user(self, user_id: str) -> Plan[Forgotten]:
        """DELETE /users/{user_id}."""
        return ask(Request("DELETE", path_of("users", user_id)), Forgotten, self._limits)

    def models(self) -> Plan[Models]:
        """GET /models."""
        return self._get("/models", Models)

    def ready(self) -> Plan[Readiness]:
        """GET /health/ready."""
        return self._get("/health/ready", Readiness)

    def latency(self, minutes: int | None) -> Plan[Latencies]:
        """GET /latency."""
        return self._get("/latency", Latencies, _given({"minutes": minutes}))

    def latest(self, options: ItemListOptions) -> Plan[LatestItems]:
        """GET /latest."""
        return self._get("/latest", LatestItems, _given(options))

    def why_not(self, user_id: str, item_id: str, n: int | None, options: FilterOptions) -> Plan[WhyNot]:
        """POST /explain."""
        return self._post("/explain", WhyNot, _given({**options, "user_id": user_id, "item_id": item_id, "n": n}))

    def blocks(self, user_id: str) -> Plan[Blocks]:
        """GET /users/{user_id}/blocks."""
        return self._get(path_of("users", user_id, "blocks"), Blocks)

    def change_blocks(self, user_id: str, block: Sequence[str], unblock: Sequence[str]) -> Plan[Blocks]:
        """PATCH /users/{user_id}/blocks."""
        body = {"block": list(block), "unblock": list(unblock)}
        return self._send("PATCH", path_of("users", user_id, "blocks"), Blocks, body)

    def items(self, options: CatalogueOptions) -> Plan[ItemsPage]:
        """GET /items."""
        given = {name: value for name, value in options.items() if value is not None}
        return self._get("/items", ItemsPage, given)

    def item(self, item_id: str) -> Plan[Item]:
        """GET /items/{item_id}."""
        return self._get(path_of("items", item_id), Item)

    def put_item(self, item_id: str, fields: ItemFields) -> Plan[Item]:
        """PUT /items/{item_id}."""
        return self._send("PUT", path_of("items", item_id), Item, _plain(fields))

    def patch_item(self, item_id: str, fields: ItemFields) -> Plan[Item]:
        """PATCH /items/{item_id}."""
        return self._send("PATCH", path_of("items", item_id), Item, _plain(fields))

    def delete_item(self, item_id: str) -> Plan[DeletedItem]:
        """DELETE /items/{item_id}."""
        return ask(Request("DELETE", path_of("items", item_id)), DeletedItem, self._limits)

    def write_items(self, writes: Iterable[ItemWrite], deadline_s: float | None) -> Plan[WrittenItems]:
        """POST /items, in requests of bounded size."""
        limits = self._limits if deadline_s is None else replace(self._limits, deadline_s=deadline_s)
        clock = Clock(limits)
        accepted, sent = 0, 0
        rejected: list[RejectedWrite] = []
        values = ({**_plain(w.fields), "item_id": w.item_id, "operation": w.operation} for w in writes)
        for rows in _chunks(values):
            request = Request("POST", "/items", body=b"[" + b",".join(rows) + b"]")
            try:
                answer = yield from ask(request, WrittenItems, limits, clock)
            except TesseraError as error:
                _move(error, sent)
                raise
            accepted += answer.accepted
            rejected += [replace(one, row=one.row + sent) for one in answer.rejected]
            sent += len(rows)
        return WrittenItems(accepted, tuple(rejected))

    def quality(self, days: int | None) -> Plan[Quality]:
        """GET /quality."""
        return self._get("/quality", Quality, _given({"days": days}))

    def activate(self, version: str) -> Plan[Activation]:
        """POST /models/{version}/activate."""
        return ask(Request("POST", path_of("models", version, "activate")), Activation, self._limits)

    def roll_back(self) -> Plan[Activation]:
        """POST /models/rollback."""
        return ask(Request("POST", "/models/rollback"), Activation, self._limits)

    def refresh(self, mode: str, options: RefreshOptions) -> Plan[RefreshJob]:
        """POST /refresh."""
        return self._post("/refresh", RefreshJob, _given(options) | {"mode": mode})

    def refreshes(self) -> Plan[RefreshJobs]:
        """GET /refresh."""
        return self._get("/refresh", RefreshJobs)

    def refresh_job(self, job_id: str) -> Plan[RefreshJob]:
        """GET /refresh/{job_id}."""
        return self._get(path_of("refresh", job_id), RefreshJob)

    def cancel_refresh(self, job_id: str) -> Plan[RefreshJob]:
        """DELETE /refresh/{job_id}."""
        return ask(Request("DELETE", path_of("refresh", job_id)), RefreshJob, self._limits)

    def _get(self, path: str, kind: type[T], params: Mapping[str, Any] | None = None) -> Plan[T]:
        return ask(Request("GET", path, tuple(_params(params or {}))), kind, self._limits)

    def _post(self, path: str, kind: type[T], body: Any) -> Plan[T]:
        return self._send("POST", path, kind, body)

    def _send(self, method: str, path: str, kind: type[T], body: Any) -> Plan[T]:
        return ask(_json_request(method, path, body), kind, self._limits)


def _json_request(method: str, path: str, body: Any) -> Request:
    return Request(method, path, body=encoded(body))


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say something; lists as lists, where a single text may have been given."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() & set(_LISTS):
        given[name] = [given[name]] if isinstance(given[name], str) else list(given[name])
    return given


def _params(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            yield name, str(one).lower() if isinstance(one, bool) else str(one)


def _chunks(values: Iterable[Mapping[str, Any]]) -> Iterator[list[bytes]]:
    """JSON objects, so many together as may be sent in one request."""
    rows: list[bytes] = []
    size = 0
    for value in values:
        row = encoded(value)
        if rows and (len(rows) == _ROWS_PER_REQUEST or size + len(row) > _ROW_BYTES_PER_REQUEST):
            yield rows
            rows, size = [], 0
        rows.append(row)
        size += len(row) + 1
    if rows:
        yield rows


def _plain(fields: ItemFields) -> dict[str, Any]:
    """Fields as JSON has them."""
    plain: dict[str, Any] = dict(fields)
    if "categories" in fields:
        plain["categories"] = list(fields["categories"])
    if "attributes" in fields:
        plain["attributes"] = dict(fields["attributes"])
    return plain


def _move(error: TesseraError, rows: int) -> None:
    """Say in an error of one request where among all rows it is."""
    error.recorded = rows
    error.errors = tuple(_moved(field, rows) for field in error.errors)


def _moved(field: InvalidField, rows: int) -> InvalidField:
    """A row's place among all events, where the service counts those of one request."""
    match field.location:
        case ("body", int(row), *rest):
            return replace(field, location=("body", row + rows, *rest))
    return field
