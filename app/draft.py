"""An answer in the making: what the steps of the recommender's chain add to."""

import time
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.eligibility import ItemFilter
from app.explanation import explanation
from app.prefix_quota import PrefixQuota
from app.recommendation import (
    ExplainedRecommendation,
    Option,
    RankedItem,
    Reason,
    Recommendation,
    Shortfall,
    Source,
    Wanted,
)
from app.recommendation_ids import next_recommendation_id
from app.served_model import ServedModel
from app.user_state import UserState
from model_store.cache_entries import CacheEntry
from model_store.prefix_trie import EligibleItems


@dataclass(eq=False)
class Draft:
    """Collects items until there are enough; nothing gets in past the filter.

    Attributes:
        model: the version this answer is made with, from start to end.
        wanted: the request.
        state: what Redis knows of the user.
        max_age_s: age from which the entry counts as stale.
        unavailable: parts that should have answered and did not, and why.
        timings_ms: time in each stage.
    """

    model: ServedModel
    wanted: Wanted
    state: UserState
    max_age_s: float
    unavailable: dict[str, str] = field(default_factory=dict)
    timings_ms: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.now = time.time()
        self.history = self.model.indices_of(self.wanted.history or self.state.history)
        self.excluded = self.model.indices_of(self.wanted.exclude)
        self.withheld = self.model.indices_of(self.state.withheld)
        """Item indices that are blocked, or were read."""
        self.hidden = set(self._not_shown())
        """Item indices that may not be added: seen, withheld, excluded, or there already."""
        self.only = (
            None
            if self.wanted.only is None
            else np.unique(np.array(self.model.indices_of(self.wanted.only), dtype=np.int32))
        )
        """Item indices of which alone items may be added; None for the whole catalogue."""
        self.quota = self._new_quota()
        """The room of each prefix, where there is a cap."""
        self.held_back = False
        """Whether the cap has kept out items that could be shown."""
        self.items: list[int] = []
        self.renewed = False
        """Whether this answer's decode is kept as the user's entry."""
        self.not_applied: dict[Option, str] = {}
        """Options that the list is made without, and why."""
        self.removed: dict[str, NDArray[np.intp]] = {}
        """Places in the cached list, from 0, of the items that each rule removes."""
        self.live_engine: str | None = None
        """What decoded live for this answer."""
        self._scores: list[float] = []
        self._reasons: list[Reason] = []
        self._sources: list[Source] = []
        self._revision = self.model.eligibility.revision

    @property
    def entry(self) -> CacheEntry | None:
        """The user's cached list."""
        return self.state.entry

    @property
    def item_filter(self) -> ItemFilter:
        """What every item must meet."""
        return self.wanted.item_filter

    @property
    def needed(self) -> int:
        """Items the whole list must have for this page to be full."""
        return self.wanted.offset + self.wanted.n

    @property
    def missing(self) -> int:
        """Items still to be found."""
        return self.needed - len(self.items)

    @property
    def entry_age_s(self) -> float:
        """Age of the cached entry; 0 without one."""
        return self.state.age_s(self.now)

    @property
    def stale(self) -> bool:
        """Whether there is an entry, too old or without the user's latest events."""
        return self.entry is not None and self.state.outdated(self.now, self.max_age_s)

    @property
    def outdated(self) -> bool:
        """Whether a decode of the user's list is due, and this answer has not brought one."""
        return bool(self.history) and self.state.outdated(self.now, self.max_age_s) and not self.renewed

    @property
    def personal(self) -> bool:
        """Whether a list decoded ahead could have given this answer: to a user with a history, without a query."""
        return bool(self.wanted.user_id is not None and self.wanted.query is None and self.history and self.items)

    @property
    def fresh(self) -> bool:
        """Whether it begins with an item of a fresh entry, or with one decoded now."""
        return self._source == "cache" or "live" in self._reasons[:1]

    @property
    def _source(self) -> Source:
        return self._sources[0] if self._sources else "popular"

    def open_entry(self) -> NDArray[np.int32]:
        """Items of the entry that may be added; int32, in its order, none without one."""
        if self.entry is None:
            return np.empty(0, dtype=np.int32)
        items = self.model.items_of_codes(self.entry.codes_KL)
        return self._open(items[items >= 0])

    def open_allowed(self) -> NDArray[np.int32]:
        """Items of the allow-list that may be added and whose prefix has room; int32, none without such a list."""
        if self.only is None:
            return np.empty(0, dtype=np.int32)
        items = self._open(self.only)
        return items if self.quota is None else items[self.quota.has_room(items)]

    def anything_left(self, eligible: EligibleItems) -> bool:
        """Whether an item may still be added. `eligible` is what passes the catalogue-wide filter."""
        if self.only is not None:
            return len(self.open_allowed()) > 0
        if self.quota is not None:
            return self.quota.anything_left(eligible, self.hidden)
        return self._anything_eligible(eligible)

    def note_shortfall(self, eligible: EligibleItems) -> None:
        """Find out whether the cap is why items are missing: none of those that are left has room."""
        if self.missing and self.quota is not None and not self.anything_left(eligible):
            self.held_back |= self._anything_eligible(eligible)

    def add(self, items: NDArray[np.integer], scores: NDArray[Any], reason: Reason, source: Source) -> None:
        """Take as many of these items, best first, as may be shown and are missing."""
        known = (items >= 0) & (items < len(self.model.catalog))
        items, scores = items[known], scores[known]
        allowed = self._may_be_shown(items)
        for item, score, passes in zip(items.tolist(), scores.tolist(), allowed.tolist(), strict=True):
            if len(self.items) == self.needed:
                break
            if passes and item not in self.hidden:
                if self.quota is not None and not self.quota.take(item):
                    self.held_back = True
                    continue
                self.hidden.add(item)
                self.items.append(item)
                self._scores.append(score)
                self._reasons.append(reason)
                self._sources.append(source)

    def drop_removed(self) -> bool:
        """Take out what may not be shown any more because items have changed since it was added; whether any was."""
        if self._revision == self.model.eligibility.revision or not self.items:
            return False
        self._revision = self.model.eligibility.revision
        allowed = self._may_be_shown(np.array(self.items, dtype=np.int32)).tolist()
        if all(allowed):
            return False
        self.items = [item for item, passes in zip(self.items, allowed, strict=True) if passes]
        self._scores = [score for score, passes in zip(self._scores, allowed, strict=True) if passes]
        self._reasons = [reason for reason, passes in zip(self._reasons, allowed, strict=True) if passes]
        self._sources = [source for source, passes in zip(self._sources, allowed, strict=True) if passes]
        self.quota = self._new_quota()
        if self.quota is not None:
            for item in self.items:
                self.quota.take(item)
        return True

    def note_removed(self, items: NDArray[np.integer]) -> None:
        """Note for the explanation what the rules remove of a cached list; -1 for codes that no item has."""
        known = np.flatnonzero(items >= 0)
        self.removed = {rule: known[removed] for rule, removed in self.removed_by(items[known]).items()}

    def removed_by(self, items: NDArray[np.integer]) -> dict[str, NDArray[np.bool_]]:
        """Which of these items each rule removes; bool, the shape of `items`, by rule. Several may remove one."""
        removed = {
            "seen": np.isin(items, self.history),
            "withheld": np.isin(items, self.withheld),
            "excluded": np.isin(items, self.excluded),
            **self.model.eligibility.removed(self.item_filter, items),
        }
        if self.only is not None:
            removed["only"] = ~np.isin(items, self.only)
        if (quota := self._new_quota()) is not None:
            is_open = self._may_be_shown(items) & ~np.isin(items, self._not_shown())
            removed["max_per_prefix"] = np.zeros(len(items), dtype=np.bool_)
            removed["max_per_prefix"][is_open] = ~quota.fitting(items[is_open])
        return removed

    def given(self) -> dict[str, int]:
        """Items each part gave."""
        return {reason: self._reasons.count(reason) for reason in dict.fromkeys(self._reasons)}

    def finish(self) -> Recommendation:
        """The answer."""
        first, page = self.wanted.offset, self.items[self.wanted.offset :]
        ids, codes = self.model.catalog.item_ids, self.model.codes_of(page)
        items = [
            RankedItem(ids[item], rank, self._scores[rank - 1], code, self._reasons[rank - 1])
            for rank, (item, code) in enumerate(zip(page, codes, strict=True), start=first + 1)
        ]
        age_s = self.entry_age_s if self._source in ("cache", "stale_cache") else 0.0
        answer = Recommendation(
            recommendation_id=next_recommendation_id(),
            user_id=self.wanted.user_id,
            items=items,
            source=self._source,
            model_version=self.model.version,
            generated_at=datetime.fromtimestamp(self.now - age_s, UTC).isoformat(timespec="milliseconds"),
            age_s=round(age_s, 3),
            degraded=bool(self.unavailable),
            shortfall_reason=self._shortfall(),
            not_applied=self.not_applied,
        )
        if not self.wanted.explain:
            return answer
        said = {member.name: getattr(answer, member.name) for member in fields(answer)}
        return ExplainedRecommendation(**said, explain=explanation(self, items))

    def _shortfall(self) -> Shortfall | None:
        if not self.missing:
            return None
        personal = self.history or self.entry is not None or (self.wanted.query and "q" not in self.not_applied)
        if self.wanted.strict and not personal:
            return "no_history"
        if self.held_back:
            return "max_per_prefix_reached"
        return "personal_items_exhausted" if self.wanted.strict else "eligible_items_exhausted"

    def _new_quota(self) -> PrefixQuota | None:
        most = self.wanted.max_per_prefix
        return None if most is None else PrefixQuota(self.model.bundle.trie, self.wanted.prefix_levels, most)

    def _may_be_shown(self, items: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of these items the filter and the allow-list let through; bool [K]."""
        allowed = self.model.eligibility.allowed(self.item_filter, items)
        return allowed if self.only is None else allowed & np.isin(items, self.only)

    def _not_shown(self) -> list[int]:
        return [*self.history, *self.withheld, *self.excluded]

    def _open(self, items: NDArray[np.integer]) -> NDArray[np.int32]:
        items = items[self._may_be_shown(items)]
        return np.array([item for item in items.tolist() if item not in self.hidden], dtype=np.int32)

    def _anything_eligible(self, eligible: EligibleItems) -> bool:
        """Whether an item is left that may be shown, whatever the cap says."""
        if self.only is not None:
            return len(self._open(self.only)) > 0
        hidden = np.fromiter(self.hidden, np.intp, len(self.hidden))
        return eligible.total > int(np.count_nonzero(eligible.mask[hidden]))
