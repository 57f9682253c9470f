"""The client that waits."""

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import BinaryIO, Literal, Self, TypeVar, Unpack

import httpx

from tessera_client import connection
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
    RecordedEvents,
    SimilarItems,
    WhyNot,
    WrittenItems,
)
from tessera_client.calls import Calls
from tessera_client.errors import TesseraError
from tessera_client.exchange import Attempt, Plan, Reply, problem_of
from tessera_client.export_file import ExportFile
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


class Tessera:
    """A Tessera service. Connections are kept and may be used by several threads.

        with Tessera("http://127.0.0.1:8000", api_key=key) as tessera:
            print(tessera.recommend("ann", n=5).item_ids)

    Every method raises a `TesseraError`; see `tessera_client.errors`. What the service refuses because it is busy or
    without its storage (429, 503) is tried again, no sooner than it says.

    Args:
        base_url: of the service.
        api_key: where the service has keys configured.
        timeout_s: for the whole answer to one request.
        deadline_s: for a call, its retries and the pauses between them.
        retries: attempts after the first, at most.
        transport: of httpx, for proxies, certificates or Unix sockets.

    Raises:
        ValueError: an argument makes no sense.
    """

    def __init__(
        self,
        base_url: str = connection.DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = connection.DEFAULT_TIMEOUT_S,
        deadline_s: float = connection.DEFAULT_DEADLINE_S,
        retries: int = connection.DEFAULT_RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._base_url = base_url
        self._timeout_s = timeout_s
        self._calls = Calls(connection.limits_of(timeout_s, deadline_s, retries))
        self._http = httpx.Client(base_url=base_url, headers=connection.headers_of(api_key), transport=transport)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({connection.shown_url(self._base_url)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def recommend(
        self, user_id: str | None = None, *, history: Sequence[str] | None = None, **options: Unpack[RecommendOptions]
    ) -> Recommendation:
        """Recommend items to a user, to an anonymous session, or for a query alone.

        Args:
            user_id: whose list.
            history: item ids of a session, oldest first; instead of a user.
            options: see `RecommendOptions`.
        """
        return self._run(self._calls.recommend(user_id, history, options))

    def recommend_many(
        self, user_ids: Iterable[str], **options: Unpack[RecommendOptions]
    ) -> tuple[Recommendation, ...]:
        """Recommend items to many users, a hundred a request; one answer per user, in their order."""
        return self._run(self._calls.recommend_many(user_ids, options))

    def rank(
        self,
        items: Sequence[str],
        *,
        user_id: str | None = None,
        history: Sequence[str] | None = None,
        q: str | None = None,
        by: Literal["ranker", "codes"] | None = None,
    ) -> Ranking:
        """Put items in the order in which a user, or a session, is likely to want them; `ranker` says whose scores."""
        return self._run(self._calls.rank(items, user_id, history, q, by))

    def similar(self, item_id: str, **options: Unpack[ItemListOptions]) -> SimilarItems:
        """Items near an item, the nearest first."""
        return self._run(self._calls.similar(item_id, options))

    def popular(self, **options: Unpack[PopularOptions]) -> PopularItems:
        """The most popular items."""
        return self._run(self._calls.popular(options))

    def record_events(self, events: Iterable[Event], *, deadline_s: float | None = None) -> RecordedEvents:
        """Record events, as many as there are: they are read and sent a bounded request at a time.

        When it fails, `recorded` of the error says how many events at the beginning were answered for; go on behind
        them. Events of items the catalogue does not have are `rejected`, the others recorded.

        Args:
            events: in any order.
            deadline_s: for all of them; that of the client by default.
        """
        return self._run(self._calls.record_events(events, deadline_s))

    def history(self, user_id: str) -> History:
        """What is recorded of a user, oldest first; empty for one nobody has heard of."""
        return self._run(self._calls.history(user_id))

    def forget_user(self, user_id: str) -> Forgotten:
        """Forget a user: history, lists of every version, pending refresh."""
        return self._run(self._calls.forget_user(user_id))

    def models(self) -> Models:
        """The published model versions."""
        return self._run(self._calls.models())

    def ready(self) -> Readiness:
        """Whether requests can be answered, and from what."""
        return self._run(self._calls.ready())

    def latency(self, minutes: Literal[1, 5, 60] | None = None) -> Latencies:
        """Request times by route and source."""
        return self._run(self._calls.latency(minutes))

    def latest(self, **options: Unpack[ItemListOptions]) -> LatestItems:
        """The newest items."""
        return self._run(self._calls.latest(options))

    def why_not(self, user_id: str, item_id: str, *, n: int | None = None, **options: Unpack[FilterOptions]) -> WhyNot:
        """Why an item is in a user's list of so many items, or is not."""
        return self._run(self._calls.why_not(user_id, item_id, n, options))

    def blocks(self, user_id: str) -> Blocks:
        """Items that a user is never shown."""
        return self._run(self._calls.blocks(user_id))

    def change_blocks(self, user_id: str, *, block: Sequence[str] = (), unblock: Sequence[str] = ()) -> Blocks:
        """Block items for a user, or unblock them; one that is in both is blocked."""
        return self._run(self._calls.change_blocks(user_id, block, unblock))

    def items(self, **options: Unpack[CatalogueOptions]) -> ItemsPage:
        """A page of the catalogue."""
        return self._run(self._calls.items(options))

    def item(self, item_id: str) -> Item:
        """One item as it is now, hidden ones too."""
        return self._run(self._calls.item(item_id))

    def put_item(self, item_id: str, **fields: Unpack[ItemFields]) -> Item:
        """Say all of an item, which needs a title; one that is not there is made."""
        return self._run(self._calls.put_item(item_id, fields))

    def patch_item(self, item_id: str, **fields: Unpack[ItemFields]) -> Item:
        """Change the given fields of an item: its price, its stock, whether it is hidden."""
        return self._run(self._calls.patch_item(item_id, fields))

    def delete_item(self, item_id: str) -> DeletedItem:
        """Delete an item; it is in no list from the next answer on."""
        return self._run(self._calls.delete_item(item_id))

    def write_items(self, writes: Iterable[ItemWrite], *, deadline_s: float | None = None) -> WrittenItems:
        """Write many items, in their order and in requests of bounded size; errors as in `record_events`."""
        return self._run(self._calls.write_items(writes, deadline_s))

    def quality(self, days: int | None = None) -> Quality:
        """Recommended items and those that got an event, by day, source and model version."""
        return self._run(self._calls.quality(days))

    def activate(self, version: str) -> Activation:
        """Serve a version; every worker follows within a second."""
        return self._run(self._calls.activate(version))

    def roll_back(self) -> Activation:
        """Serve the version that was active before."""
        return self._run(self._calls.roll_back())

    def refresh(self, mode: Literal["full", "stale"], **options: Unpack[RefreshOptions]) -> RefreshJob:
        """Have users' lists decoded anew: everybody's, or those most worth it; `refresh_job` tells how it goes."""
        return self._run(self._calls.refresh(mode, options))

    def refreshes(self) -> RefreshJobs:
        """The newest refreshes that were asked for."""
        return self._run(self._calls.refreshes())

    def refresh_job(self, job_id: str) -> RefreshJob:
        """How one refresh goes."""
        return self._run(self._calls.refresh_job(job_id))

    def cancel_refresh(self, job_id: str) -> RefreshJob:
        """Cancel a refresh; lists that are written stay."""
        return self._run(self._calls.cancel_refresh(job_id))

    def export_events(self, file: BinaryIO) -> int:
        """Write every user's history into a file, as JSON Lines that `record_events` could send; how many.

        They are written as they come; a part may take `timeout_s`. Not tried again: when it fails, a part is written.
        """
        return self._export("/export/events", file)

    def export_items(self, file: BinaryIO) -> int:
        """Write every item as it is now into a file, as JSON Lines; how many. As for `export_events`."""
        return self._export("/export/items", file)

    def _run(self, plan: Plan[T]) -> T:
        try:
            attempt = next(plan)
            while True:
                try:
                    reply = self._send(attempt)
                except TesseraError as error:
                    attempt = plan.throw(error)
                else:
                    attempt = plan.send(reply)
        except StopIteration as end:
            answer: T = end.value
            return answer

    def _export(self, path: str, file: BinaryIO) -> int:
        export, timeout_s = ExportFile(file), self._timeout_s
        try:
            with self._http.stream("GET", path, timeout=timeout_s) as response:
                if not response.is_success:
                    raise problem_of(connection.reply_of(response.status_code, response.headers, response.read()))
                for part in response.iter_bytes():
                    export.take(part)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise connection.failed(error, self._base_url, timeout_s) from error
        return export.end()

    def _send(self, attempt: Attempt) -> Reply:
        if attempt.pause_s:
            time.sleep(attempt.pause_s)
        end = time.monotonic() + attempt.timeout_s
        try:
            response = self._http.send(self._http.build_request(**connection.http_request(attempt)), stream=True)
            try:
                body = bytearray()
                for part in response.iter_bytes():
                    body += part
                    # The timeouts of httpx are those of each wait, and a slow answer has many.
                    if time.monotonic() > end:
                        raise connection.late(self._base_url, attempt.timeout_s)
            finally:
                response.close()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise connection.failed(error, self._base_url, attempt.timeout_s) from error
        return connection.reply_of(response.status_code, response.headers, bytes(body))
