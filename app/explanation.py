"""How an answer came about, told from its draft."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from app.recommendation import (
    ExplainedItem,
    Explanation,
    FilterInForce,
    FullExplanation,
    RankedItem,
    Reason,
    RemovedItem,
)

if TYPE_CHECKING:
    from app.draft import Draft

_MAX_REMOVED = 100
_BY_THE_MODEL: tuple[Reason, ...] = ("cache", "reranked", "live")


def explanation(draft: "Draft", items: Sequence[RankedItem]) -> Explanation:
    """Explain a finished draft.

    Args:
        draft: with the rules' removals noted where a cached list was looked at.
        items: what it answers with.
    """
    short = Explanation(
        entry_age_s=round(draft.entry_age_s, 3) if draft.entry is not None else None,
        entry_items=len(draft.entry.codes_KL) if draft.entry is not None else 0,
        dirty=draft.state.dirty,
        history_items=len(draft.history),
        removed={rule: len(places) for rule, places in draft.removed.items()},
        given=draft.given(),
        unavailable=draft.unavailable,
        stages_ms={name: round(ms, 3) for name, ms in draft.timings_ms.items()},
        scenario=draft.wanted.scenario,
    )
    if draft.wanted.explain != "full":
        return short
    return FullExplanation(
        **{member.name: getattr(short, member.name) for member in fields(short)},
        model_version=draft.model.version,
        items=[
            ExplainedItem(one.item_id, one.code, one.score if one.reason in _BY_THE_MODEL else None, one.reason)
            for one in items
        ],
        removed_items=_removed_items(draft),
        filter=_filter(draft),
        entry_engine=draft.entry.generator if draft.entry is not None else None,
        live_engine=draft.live_engine,
    )


def _removed_items(draft: "Draft") -> list[RemovedItem]:
    if draft.entry is None or not draft.removed:
        return []
    places = np.unique(np.concatenate(list(draft.removed.values())))[:_MAX_REMOVED]
    items = draft.model.items_of_codes(draft.entry.codes_KL)
    return [
        RemovedItem(
            item_id=draft.model.catalog.item_ids[items[place]],
            rank=place + 1,
            rules=[rule for rule, removed in draft.removed.items() if place in removed],
        )
        for place in places.tolist()
    ]


def _filter(draft: "Draft") -> FilterInForce:
    wanted, item_filter = draft.wanted, draft.item_filter
    return FilterInForce(
        category=sorted(item_filter.categories),
        price_min=item_filter.price_min,
        price_max=item_filter.price_max,
        in_stock=item_filter.in_stock,
        excluded=len(draft.excluded),
        only=None if draft.only is None else len(draft.only),
        max_per_prefix=wanted.max_per_prefix,
        prefix_levels=wanted.prefix_levels,
    )
