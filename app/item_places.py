"""Codes and vectors for items that no catalogue has: from their text, by the quantizer of the served version.

A code is claimed in Redis before it is given away, so that two workers never give one code twice. A claim lasts an
hour; by then the item is in the log, which every worker reads before it gives codes.
"""

import asyncio
import base64
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from redis.asyncio.client import Pipeline

from app.encode_wire import MAX_DOCUMENTS
from app.item_overlay import ItemOverlay
from app.recommendation_cache import RecommendationCache
from app.served_model import ServedModel
from app.text_vectors import TextVectors, TextVectorsUnavailable
from model_store.bundle import ModelStore
from model_store.code_assignment import packed_codes
from model_store.errors import TesseraError
from model_store.item_records import Place
from model_store.line_of_versions import KnownPlaces, known_places
from model_store.quantizer import ItemQuantizer

_CLAIM_S = 3600
_ATTEMPTS = 10
_CLAIMED_TOGETHER = 500


class NoPlace(Exception):
    """No code for an item now. `reason` is one of TextVectorsUnavailable's, or `codes`: none is left near an item."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ItemPlaces:
    """Gives places.

    Args:
        store: where the served version and those beside it are.
        cache: where codes are claimed.
        overlay: items that have codes already.
        texts: makes vectors of texts.
    """

    def __init__(
        self,
        store: ModelStore,
        cache: RecommendationCache,
        overlay: ItemOverlay,
        texts: TextVectors,
    ) -> None:
        self._store = store
        self._cache = cache
        self._overlay = overlay
        self._texts = texts
        self._keys = cache.keys
        self._one_at_a_time = asyncio.Lock()
        self._quantizer: tuple[str, ItemQuantizer] | None = None

    async def give(self, model: ServedModel, documents: Mapping[str, str], *, attempt: int = 0) -> dict[str, Place]:
        """A place for each item, by its id.

        Args:
            model: whose line the places are in.
            documents: what the text encoder reads of each item.
            attempt: see `Place`.

        Raises:
            NoPlace: none for any of them.
            CacheUnavailable: codes could not be claimed.
        """
        item_ids = list(documents)
        places: dict[str, Place] = {}
        for start in range(0, len(item_ids), MAX_DOCUMENTS):
            part = item_ids[start : start + MAX_DOCUMENTS]
            # Outside the lock: it is what takes long.
            try:
                text_MX = await self._texts.of(model.version, [documents[item_id] for item_id in part])
            except TextVectorsUnavailable as error:
                raise NoPlace(error.reason) from None
            async with self._one_at_a_time:
                places |= await self._place(model, part, text_MX, attempt)
        return places

    async def _place(
        self, model: ServedModel, item_ids: list[str], text_MX: NDArray[np.float32], attempt: int
    ) -> dict[str, Place]:
        line = model.bundle.cache_version
        try:
            quantizer = await asyncio.to_thread(self._quantizer_of, model)
            known: KnownPlaces = await asyncio.to_thread(known_places, self._store, model.bundle, item_ids)
            vectors_MD = await asyncio.to_thread(quantizer.vectors_of, text_MX)
        except (TesseraError, OSError):
            raise NoPlace("version") from None
        codes_ML = known.codes_ML
        vectors_MD[known.placed_M] = known.vectors_MD[known.placed_M]
        taken = [known.taken, self._overlay_codes(line)]
        left = np.flatnonzero(~known.placed_M)
        for _ in range(_ATTEMPTS):
            if not len(left):
                break
            try:
                codes_ML[left] = await asyncio.to_thread(
                    quantizer.code_of, text_MX[left], None, np.concatenate(taken).astype(np.uint32)
                )
            except TesseraError:
                raise NoPlace("codes") from None
            won = await self._claim(line, packed_codes(codes_ML[left]).tolist(), [item_ids[row] for row in left])
            taken.append(packed_codes(codes_ML[left]))
            left = left[~won]
        if len(left):
            raise NoPlace("codes")
        return {
            item_id: Place(
                line=line,
                code=codes_ML[row].tolist(),
                vector=base64.b64encode(vectors_MD[row].astype("<f4").tobytes()).decode("ascii"),
                attempt=attempt,
            )
            for row, item_id in enumerate(item_ids)
        }

    async def _claim(self, line: str, packed: list[int], item_ids: list[str]) -> NDArray[np.bool_]:
        """Which of the codes belong to their item now."""
        won: list[bool] = []
        for start in range(0, len(packed), _CLAIMED_TOGETHER):
            rows = range(start, min(start + _CLAIMED_TOGETHER, len(packed)))

            def commands(pipeline: Pipeline, rows: range = rows) -> None:
                for row in rows:
                    key = self._keys.item_code(line, packed[row])
                    pipeline.set(key, item_ids[row], nx=True, ex=_CLAIM_S)
                    pipeline.get(key)

            results = await self._cache.execute("items", commands, patient=True)
            won += [owner == item_ids[row].encode() for owner, row in zip(results[1::2], rows, strict=True)]
        return np.array(won, dtype=np.bool_)

    def _overlay_codes(self, line: str) -> NDArray[np.uint32]:
        places = (self._overlay.records[item_id]["place"] for item_id in self._overlay.placed)
        codes = [place["code"] for place in places if place["line"] == line]
        return packed_codes(np.array(codes, dtype=np.uint8)) if codes else np.empty(0, dtype=np.uint32)

    def _quantizer_of(self, model: ServedModel) -> ItemQuantizer:
        if self._quantizer is None or self._quantizer[0] != model.version:
            self._quantizer = (model.version, ItemQuantizer.open(model.bundle))
        return self._quantizer[1]
