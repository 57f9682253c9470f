"""What is done with every finished recommendation, whichever way it was made."""

import time
from collections.abc import Mapping, Sequence

from app.attribution import Attribution
from app.background_refresh import BackgroundRefresh
from app.freshness import Freshness
from app.read_write_back import ReadWriteBack
from app.recommendation import Source
from app.structured_logging import TRACE_ID
from app.telemetry import ByLabels, Telemetry


class FinishedAnswers:
    """Every answer passes here once, after it was made and before it is sent; nothing here waits."""

    def __init__(
        self,
        refresh: BackgroundRefresh,
        freshness: Freshness,
        attribution: Attribution,
        write_back: ReadWriteBack,
        telemetry: Telemetry,
    ) -> None:
        self._refresh = refresh
        self._freshness = freshness
        self._attribution = attribution
        self._write_back = write_back
        self._tracing = telemetry.tracing
        self._items = ByLabels(telemetry.items, telemetry.batches)

    def passed(
        self,
        *,
        recommendation_id: str,
        user_id: str | None,
        item_ids: Sequence[str],
        source: Source,
        model_version: str,
        degraded: bool,
        given: Mapping[str, int],
        outdated: bool,
        personal: bool,
        fresh: bool,
        read_after_s: float | None,
    ) -> None:
        """Note an answer.

        Args:
            recommendation_id: as the answer says it.
            user_id: whose it is, None for an anonymous session.
            item_ids: what is recommended, best first.
            source: the part that gave the first item of the whole list.
            model_version: what it was made with.
            degraded: whether a part that should have answered did not.
            given: items of the whole list that each part gave.
            outdated: whether a decode of the user's list is due, and this answer has not brought one.
            personal: whether a list decoded ahead could have given it.
            fresh: whether it begins with an item of a fresh entry, or with one decoded now.
            read_after_s: seconds until what is shown counts as read by the user; None for never.
        """
        self._attribution.answered(recommendation_id, source, model_version, item_ids)
        if read_after_s is not None and user_id is not None:
            self._write_back.shown(user_id, item_ids, time.time() + read_after_s)
        if user_id is not None:
            if outdated:
                self._refresh.request(user_id)
            if personal:
                self._freshness.answered(user_id, fresh=fresh, wanting=outdated)
        if self._tracing is not None and TRACE_ID.get() is not None:
            self._tracing.note(model_version=model_version, degraded=degraded, items=len(item_ids))
        for reason, count in given.items():
            self._items[reason,].inc(count)
