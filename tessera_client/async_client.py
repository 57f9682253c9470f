"""The client for asyncio."""

import asyncio
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


class AsyncTessera:
    """As `Tessera`, for asyncio; the same arguments and methods.

    async with AsyncTessera("http://127.0.0.1:8000", api_key=key) as tessera:
        print((await tessera.recommend("ann", n=5)).item_ids)
    """

    def __init__(
        self,
        base_url: str = connection.DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = connection.DEFAULT_TIMEOUT_S,
        deadline_s: float = connection.DEFAULT_DEADLINE_S,
        retries: int = connection.DEFAULT_RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base_url = base_url
        self._timeout_s = timeout_s
        self._calls = Calls(connection.limits_of(timeout_s, deadline_s, retries))
        self._http = httpx.AsyncClient(base_url=base_url, headers=connection.headers_of(api_key), transport=transport)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({connection.shown_url(self._base_url)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def recommend(
        self, user_id: str | None = None, *, history: Sequence[str] | None = None, **options: Unpack[RecommendOptions]
    ) -> Recommendation:
        """Recommend items to a user, to an anonymous session, or for a query alone. See `Tessera.recommend`."""
        return await self._run(self._calls.recommend(user_id, history, options))

    async def recommend_many(
        self, user_ids: Iterable[str], **options: Unpack[RecommendOptions]
    ) -> tuple[Recommendation, ...]:
        """Recommend items to many users, a hundred a request; one answer per user, in their order."""
        return await self._run(self._calls.recommend_many(user_ids, options))

    async def rank(
        self,
        items: Sequence[str],
        *,
        user_id: str | None = None,
        history: Sequence[str] | None = None,
        q: str | None = None,
        by: Literal["ranker", "codes"] | None = None,
    ) -> Ranking:
        """Put items in the order in which a user, or a session, is likely to want them; `ranker` says whose scores."""
        return await self._run(self._calls.rank(items, user_id, history, q, by))

    async def similar(self, item_id: str, **options: Unpack[ItemListOptions]) -> SimilarItems:
        """Items near an item, the nearest first."""
        return await self._run(self._calls.similar(item_id, options))

    async def popular(self, **options: Unpack[PopularOptions]) -> PopularItems:
        """The most popular items."""
        return await self._run(self._calls.popular(options))

    async def record_events(self, events: Iterable[Event], *, deadline_s: float | None = None) -> RecordedEvents:
        """Record events, a bounded request at a time; what was recorded before an error is in its `recorded`."""
        return await self._run(self._calls.record_events(events, deadline_s))

    async def history(self, user_id: str) -> History:
        """What is recorded of a user, oldest first; empty for one nobody has heard of."""
        return await self._run(self._calls.history(user_id))

    async def forget_user(self, user_id: str) -> Forgotten:
        """Forget a user: history, lists of every version, pending refresh."""
        return await self._run(self._calls.forget_user(user_id))

    async def models(self) -> Models:
        """The published model versions."""
        return await self._run(self._calls.models())

    async def ready(self) -> Readiness:
        """Whether requests can be answered, and from what."""
        return await self._run(self._calls.ready())

    async def latency(self, minutes: Literal[1, 5, 60] | None = None) -> Latencies:
        """Request times by route and source."""
        return await self._run(self._calls.latency(minutes))

    async def latest(self, **options: Unpack[ItemListOptions]) -> LatestItems:
        """The newest items."""
        return await self._run(self._calls.latest(options))

    async def why_not(
        self, user_id: str, item_id: str, *, n: int | None = None, **options: Unpack[FilterOptions]
    ) -> WhyNot:
        """Why an item is in a user's list of so many items, or is not."""
        return await self._run(self._calls.why_not(user_id, item_id, n, options))

    async def blocks(self, user_id: str) -> Blocks:
        """Items that a user is never shown."""
        return await self._run(self._calls.blocks(user_id))

    async def change_blocks(self, user_id: str, *, block: Sequence[str] = (), unblock: Sequence[str] = ()) -> Blocks:
        """Block items for a user, or unblock them; one that is in both is blocked."""
        return await self._run(self._calls.change_blocks(user_id, block, unblock))

    async def items(self, **options: Unpack[CatalogueOptions]) -> ItemsPage:
        """A page of the catalogue."""
        return await self._run(self._calls.items(options))

    async def item(self, item_id: str) -> Item:
        """One item as it is now, hidden ones too."""
        return await self._run(self._calls.item(item_id))

    async def put_item(self, item_id: str, **fields: Unpack[ItemFields]) -> Item:
        """Say all of an item, which needs a title; one that is not there is made."""
        return await self._run(self._calls.put_item(item_id, fields))

    async def patch_item(self, item_id: str, **fields: Unpack[ItemFields]) -> Item:
        """Change the given fields of an item: its price, its stock, whether it is hidden."""
        return await self._run(self._calls.patch_item(item_id, fields))

    async def delete_item(self, item_id: str) -> DeletedItem:
        """Delete an item; it is in no list from the next answer on."""
        return await self._run(self._calls.delete_item(item_id))

    async def write_items(self, writes: Iterable[ItemWrite], *, deadline_s: float | None = None) -> WrittenItems:
        """Write many items, in their order and in requests of bounded size; errors as in `record_events`."""
        return await self._run(self._calls.write_items(writes, deadline_s))

    async def quality(self, days: int | None = None) -> Quality:
        """Recommended items and those that got an event, by day, source and model version."""
        return await self._run(self._calls.quality(days))

    async def activate(self, version: str) -> Activation:
        """Serve a version; every worker follows within a second."""
        return await self._run(self._calls.activate(version))

    async def roll_back(self) -> Activation:
        """Serve the version that was active before."""
        return await self._run(self._calls.roll_back())

    async def refresh(self, mode: Literal["full", "stale"], **options: Unpack[RefreshOptions]) -> RefreshJob:
        """Have users' lists decoded anew: everybody's, or those most worth it; `refresh_job` tells how it goes."""
        return await self._run(self._calls.refresh(mode, options))

    async def refreshes(self) -> RefreshJobs:
        """The newest refreshes that were asked for."""
        return await self._run(self._calls.refreshes())

    async def refresh_job(self, job_id: str) -> RefreshJob:
        """How one refresh goes."""
        return await self._run(self._calls.refresh_job(job_id))

    async def cancel_refresh(self, job_id: str) -> RefreshJob:
        """Cancel a refresh; lists that are written stay."""
        return await self._run(self._calls.cancel_refresh(job_id))

    async def export_events(self, file: BinaryIO) -> int:
        """Write every user's history into a file, as JSON Lines that `record_events` could send; how many.

        They are written as they come; a part may take `timeout_s`. Not tried again: when it fails, a part is written.
        """
        return await self._export("/export/events", file)

    async def export_items(self, file: BinaryIO) -> int:
        """Write every item as it is now into a file, as JSON Lines; how many. As for `export_events`."""
        return await self._export("/export/items", file)

    async def _run(self, plan: Plan[T]) -> T:
        try:
            attempt = next(plan)
            while True:
                try:
                    reply = await self._send(attempt)
                except TesseraError as error:
                    attempt = plan.throw(error)
                else:
                    attempt = plan.send(reply)
        except StopIteration as end:
            answer: T = end.value
            return answer

    async def _export(self, path: str, file: BinaryIO) -> int:
        export, timeout_s = ExportFile(file), self._timeout_s
        try:
            async with self._http.stream("GET", path, timeout=timeout_s) as response:
                if not response.is_success:
                    raise problem_of(
                        connection.reply_of(response.status_code, response.headers, await response.aread())
                    )
                async for part in response.aiter_bytes():
                    export.take(part)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise connection.failed(error, self._base_url, timeout_s) from error
        return export.end()

    async def _send(self, attempt: Attempt) -> Reply:
        if attempt.pause_s:
            await asyncio.sleep(attempt.pause_s)
        try:
            async with asyncio.timeout(attempt.timeout_s):
                response = await self._http.request(**connection.http_request(attempt))
        except TimeoutError as error:
            raise connection.late(self._base_url, attempt.timeout_s) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise connection.failed(error, self._base_url, attempt.timeout_s) from error
        return connection.reply_of(response.status_code, response.headers, response.content)
