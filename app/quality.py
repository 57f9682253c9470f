"""Online quality: of the items that were recommended, the share that got an event."""

import time
from datetime import UTC, datetime

from pydantic import BaseModel, Field

from app.recommendation_cache import RecommendationCache

MAX_DAYS = 40
_DAY_S = 86_400


class DayQuality(BaseModel):
    """One day of one source and model version."""

    day: str = Field(description="UTC, ISO 8601")
    source: str
    model_version: str
    shown: int = Field(description="items of answers whose events are counted (TESSERA_ATTRIBUTION_SHARE)")
    hits: int = Field(description="items that had an event within the window, counted on the day of the event")
    share: float = Field(description="hits / shown; 0 where nothing was shown")


class QualityAnswer(BaseModel):
    """The latest days, newest first."""

    days: list[DayQuality]


async def quality_of_days(cache: RecommendationCache, days: int) -> list[DayQuality]:
    """Read the counts of so many days, today included.

    Raises:
        CacheUnavailable: Redis did not answer in time.
    """
    keys, today = cache.keys, int(time.time() // _DAY_S)
    asked = [today - back for back in range(days)]
    counts = await cache.execute("quality", lambda p: [p.hgetall(keys.quality(day)) for day in asked])
    found: list[DayQuality] = []
    for day, fields in zip(asked, counts, strict=True):
        of_part: dict[tuple[str, str], dict[str, int]] = {}
        for field, items in fields.items():
            what, source, version = field.decode(errors="replace").split(":", 2)
            of_part.setdefault((source, version), {})[what] = int(items)
        name = datetime.fromtimestamp(day * _DAY_S, UTC).date().isoformat()
        for (source, version), number in sorted(of_part.items()):
            shown, hits = number.get("shown", 0), number.get("hits", 0)
            share = round(hits / shown, 6) if shown else 0.0
            found.append(
                DayQuality(day=name, source=source, model_version=version, shown=shown, hits=hits, share=share)
            )
    return found
