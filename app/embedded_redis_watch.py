"""Starts the embedded Redis again when it has died, as by the kernel when memory runs out.

A server of one's own (TESSERA_REDIS_URL) has a supervisor of its own. One that was told to end stays away.
"""

import asyncio
import logging
from pathlib import Path

from app import embedded_redis
from app.embedded_redis import EmbeddedRedisFailed
from app.structured_logging import FIELDS

_LOOK_S = 0.5
_LONGEST_PAUSE_S = 30.0

_logger = logging.getLogger(__name__)


async def keep_running(home: Path) -> None:
    """Look after this home's Redis until cancelled. Several processes may do so at once."""
    pause_s = _LOOK_S
    while True:
        await asyncio.sleep(pause_s)
        try:
            if await asyncio.to_thread(embedded_redis.has_died, home):
                _logger.error("the embedded Redis has died")
                await asyncio.to_thread(embedded_redis.ensure_running, home)
                _logger.warning("the embedded Redis was started again")
            pause_s = _LOOK_S
        except (EmbeddedRedisFailed, OSError) as error:
            # No memory or no disk to be had; there may be in a moment.
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            fields = {"reason": str(error), "again_in_s": pause_s}
            _logger.error("the embedded Redis cannot be started again", extra={FIELDS: fields})
