"""Tree attention inside vLLM's own worker, on the weights that vLLM has loaded.

vLLM's beam search takes no constraint, and a beam loop of one-token requests pays the engine's price of a request for
every beam. So a batch of decodes is one call to the worker, where `TorchDecoder` runs on vLLM's layers (see
`model` and `docs/decisions`). This side holds no model: it packs requests and looks after the engine.

Shapes: K items, L levels.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from model_store.bundle import Bundle
from model_store.code_tokens import CodeTokens
from model_store.decoders.decode_stats import DecodeStats, Observer
from model_store.decoders.protocol import Decoded, Decoder, DecodeRequest
from model_store.decoders.torch_decoder import SCORED_TOGETHER, TorchDecoder
from model_store.decoders.vllm.engine import VLLMEngine
from model_store.decoders.vllm.wire import pack_items, pack_requests
from model_store.errors import DecoderUnusable
from model_store.manifest import LANGUAGE_MODEL_FOLDER
from model_store.prompts import PromptEncoder

_TOLERANCE_FLOAT32 = 1e-3
# A bfloat16 logit of size 10 is off by up to 0.04, and a score adds one for each level.
_TOLERANCE_REDUCED = 0.2
_REFERENCE_BYTES = 1 << 30
_WEIGHTS_SUFFIX = ".safetensors"
_CHECKED_HISTORIES = 3
_CHECKED_ITEMS = 16


@dataclass(frozen=True)
class SelfCheck:
    """What `VLLMDecoder.self_check` found.

    Attributes:
        legal_mass: per level, the share of the whole vocabulary's probability that falls on the node's children, along
            the best item's path; the mean over the checked prompts. Near 1 once a model has learned the codes.
        largest_difference: the largest difference between two scores of the same item.
        compared: how many scores were compared.
    """

    legal_mass: tuple[float, ...]
    largest_difference: float
    compared: int


class VLLMDecoder:
    """Decodes with a model that vLLM runs (see `protocol.Decoder`); callable from several threads.

    Args:
        bundle: the published version.
        batch_size: users per forward pass.
        max_adapters: versions with an adapter of their own, on the same base, that the engine keeps ready.

    Raises:
        DecoderUnusable: vLLM is not installed, cannot run the checkpoint, or the checkpoint is not a Tessera model.
    """

    name = "vllm"
    observer: Observer | None = None

    def __init__(self, bundle: Bundle, *, batch_size: int = 8, max_adapters: int = 1) -> None:
        self._bundle = bundle
        self._batch_size = batch_size
        tokenizer = AutoTokenizer.from_pretrained(bundle.llm_path, local_files_only=True)
        code_tokens = CodeTokens.from_vocabulary(tokenizer, bundle.llm_path)
        prompts = PromptEncoder.create(tokenizer, code_tokens, bundle.item_codes, bundle.manifest.max_history)
        max_tokens = prompts.max_length + bundle.trie.levels
        self._engine = VLLMEngine(
            bundle.llm_path,
            # vLLM refuses a model that reads fewer.
            max_tokens=max_tokens,
            adapter=bundle.adapter_path,
            adapters_at_once=max_adapters,
            # The largest pass scores as many given items as go together, each with all nodes of its way.
            tokens_at_once=batch_size * (max_tokens + SCORED_TOGETHER * bundle.trie.levels),
        )
        try:
            self._open()
        except BaseException:
            self._engine.close()
            raise

    @classmethod
    def checked(cls, bundle: Bundle, *, batch_size: int = 8, max_adapters: int = 1) -> "tuple[VLLMDecoder, SelfCheck]":
        """A decoder that has passed its self-check, and what that found; nothing is left behind by one that has not.

        Raises:
            DecoderUnusable: see the class and `self_check`.
        """
        decoder = cls(bundle, batch_size=batch_size, max_adapters=max_adapters)
        try:
            return decoder, decoder.self_check()
        except BaseException:
            decoder.close()
            raise

    def for_version(self, bundle: Bundle) -> "VLLMDecoder":
        """A decoder of another version with the same base model: both share one engine, which `close` ends.

        Raises:
            DecoderUnusable: vLLM cannot use the version's adapter.
            EngineDied: the engine's process ended.
        """
        other = copy.copy(self)
        other._bundle = bundle
        other._open()
        return other

    @property
    def alive(self) -> bool:
        """See `protocol.Decoder`."""
        return self._engine.alive

    def decode(self, requests: Sequence[DecodeRequest]) -> list[list[Decoded]]:
        """See `protocol.Decoder`.

        Raises:
            EngineDied: the engine's process ended.
        """
        answers, stats = self._engine.call("tessera_decode", *self._version, *pack_requests(requests))
        if self.observer is not None:
            for of_batch in stats:
                self.observer(DecodeStats(**of_batch))
        return [[Decoded(item, score) for item, score in answer] for answer in answers]

    def score_items(
        self, history: NDArray[np.int32], items: NDArray[np.int32], query: str | None = None
    ) -> NDArray[np.float64]:
        """See `protocol.Decoder`."""
        scores = self._engine.call("tessera_score_items", *self._version, pack_items(history), pack_items(items), query)
        return np.array(scores, dtype=np.float64)

    def self_check(self, reference: Decoder | None = None) -> SelfCheck:
        """Compare the scores of decoded items with `score_items` of another decoder.

        Warms the engine up as well.

        Args:
            reference: the other decoder. None for the torch decoder where a second copy of the weights costs little,
                and for this one, which scores by other passes than it decodes, where it does not.

        Raises:
            DecoderUnusable: they differ, or are no numbers.
        """
        scorer: Decoder = reference or self._reference()
        differences: list[float] = []
        masses: list[list[float]] = []
        for history in self._sample_histories():
            decoded = self.decode([DecodeRequest(history=history, n=_CHECKED_ITEMS, beam_width=_CHECKED_ITEMS)])[0]
            items = np.array([one.item for one in decoded], dtype=np.int32)
            scores = np.array([one.score for one in decoded])
            differences += np.abs(scores - scorer.score_items(history, items)).tolist()
            masses.append(self._engine.call("tessera_legal_mass", *self._version, pack_items(history), int(items[0])))
        largest = float(np.max(differences))
        tolerance = _TOLERANCE_FLOAT32 if self._engine.on_cpu else _TOLERANCE_REDUCED
        # Written so that NaN fails too.
        if not largest <= tolerance:
            raise DecoderUnusable(
                f"{self._bundle.llm_path}: vLLM's scores differ by {largest:.3g} from those of the {scorer.name} "
                f"engine (allowed: {tolerance:g}); vLLM does not run this model faithfully, use the torch engine"
            )
        return SelfCheck(tuple(np.mean(masses, axis=0).tolist()), largest, len(differences))

    def close(self) -> None:
        """End vLLM's processes."""
        self._engine.close()

    def _reference(self) -> Decoder:
        files = self._bundle.manifest.files.items()
        weights = sum(
            record.size
            for name, record in files
            if name.startswith(LANGUAGE_MODEL_FOLDER) and name.endswith(_WEIGHTS_SUFFIX)
        )
        return self if weights > _REFERENCE_BYTES else TorchDecoder.from_bundle(self._bundle, device="cpu")

    @property
    def _version(self) -> tuple[str, int]:
        return str(self._bundle.path), self._batch_size

    def _open(self) -> None:
        refused = self._engine.call("tessera_open", *self._version)
        if refused is not None:
            raise DecoderUnusable(f"{self._bundle.llm_path}: {refused}")

    def _sample_histories(self) -> list[NDArray[np.int32]]:
        """One short history, one of full length, and lengths between; the same ones every time."""
        random = np.random.default_rng(0)
        lengths = np.linspace(1, self._bundle.manifest.max_history, _CHECKED_HISTORIES).astype(int)
        return [random.integers(0, self._bundle.manifest.items, length).astype(np.int32) for length in lengths]
