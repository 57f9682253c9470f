"""A-LLMRec (arXiv:2404.11343): a language model names an item, and what people do is told it in soft tokens.

    [user] is a user representation. This user has bought: "Red chair" [item], "Wool socks" [item]. Recommend one next
    item out of these: "Garden gnome" [item], "Blue mug" [item]. The recommendation is "Garden gnome"<end>

`user` is the state of a collaborative encoder after the history, `item` the item's joint latent (see
`joint_autoencoders`), each projected by a network of its own. The score of a candidate is the log-likelihood of its
title at the end. Candidates stand in the prompt in an order of their own, whichever they come in; more than `shown`
are asked about in several prompts.

Shapes: N items, D size of the encoder's vectors, Z of a latent, X of a text vector, H hidden size, M candidates of a
pass, S tokens of the longest title, V token ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model_store.catalog import Catalog
from model_store.collaborative.encoder_files import build_encoder, encoder_config
from model_store.rankers.history_states import history_states
from model_store.rankers.joint_autoencoders import JointAutoencoders
from model_store.rankers.judgement import Judgement, JudgementConfig
from model_store.rankers.ranker import Ranker, RankRequest
from model_store.rankers.soft_prompt import Slot, SoftPrompt, slot_keys
from model_store.rankers.soft_prompt_model import SoftPromptModel
from model_store.rankers.trainable_text_encoder import TrainableTextEncoder
from model_store.text_encoder import TextConfig, TextEncoder

USER, ITEM = "user", "item"
TOKENS = (USER, ITEM)
IS_USER = " is a user representation."
BOUGHT, NOTHING_BOUGHT = " This user has bought:", " This user has bought nothing."
ONE_OF, ANSWER = " Recommend one next item out of these:", " The recommendation is"
TEMPLATES = (IS_USER, BOUGHT, NOTHING_BOUGHT, ONE_OF, ANSWER, ",", ".")
"""Every word of the prompt, for a tokenizer to learn."""
JOINT, TEXT = "joint", "text"
SUM, MEAN = "sum", "mean"

_IGNORED = -100
_LOGITS_AT_ONCE = 2**25


@dataclass(frozen=True, kw_only=True)
class ALLMRecConfig:
    """What an A-LLMRec ranker is made of."""

    items: int
    """Of the tables; a catalogue that has grown has more."""
    encoder: Mapping[str, Any]
    """Settings of the collaborative encoder, its kind among them."""
    text: TextConfig = field(default_factory=TextConfig)
    text_size: int = 384
    """X."""
    own_text_encoder: bool = False
    """Whether the text encoder was fine-tuned, so that its weights are the ranker's own."""
    size: int = 128
    """Z."""
    tokens: tuple[str, ...] = TOKENS
    """Which of the two there are."""
    latents: str = JOINT
    """`joint`: of the item's vector, but of its text where nobody had met it in training; `text`: of all texts."""
    shown: int = 20
    """Candidates that one prompt lists, at most."""
    score: str = SUM
    """Of a title's tokens: `sum` of the log-probabilities, or `mean`."""
    question: JudgementConfig = field(default_factory=JudgementConfig)
    """How histories and titles are cut."""

    def __post_init__(self) -> None:
        for name, known in (("latents", (JOINT, TEXT)), ("score", (SUM, MEAN))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}, not {getattr(self, name)!r}")
        if self.shown < 1:
            raise ValueError(f"shown must be at least 1, not {self.shown}")


class ALLMRecRanker(Ranker):
    """Scores by the likelihood of titles, behind two kinds of soft token."""

    kind = "a-llmrec"
    config_type = ALLMRecConfig
    config: ALLMRecConfig

    def __init__(self, config: ALLMRecConfig, language_model: SoftPromptModel, catalog: Catalog) -> None:
        super().__init__(config, language_model, catalog)
        self.judgement = Judgement(config.question, language_model, catalog)
        self.encoder = build_encoder(config.items, encoder_config(config.encoder, Path("ranker.json")))
        vector_size, hidden = self.encoder.vectors().shape[1], language_model.hidden_size
        self.autoencoders = JointAutoencoders(vector_size, config.text_size, config.size)
        self.text_encoder = TrainableTextEncoder(config.text) if config.own_text_encoder else None
        self.user_projector = _projector(vector_size, hidden, nn.LeakyReLU())
        self.item_projector = _projector(config.size, hidden, nn.GELU())
        # Latents of every item, so that no prompt waits for a text encoder.
        self.register_buffer("joint_NZ", torch.zeros(config.items, config.size))
        self.register_buffer("text_NZ", torch.zeros(config.items, config.size))
        self.joint_NZ: Tensor
        self.text_NZ: Tensor
        for frozen in (self.encoder, self.autoencoders, self.text_encoder):
            if frozen is not None:
                frozen.requires_grad_(False)

    def train(self, mode: bool = True) -> "ALLMRecRanker":
        """What is frozen stays as it is in use, without dropout."""
        super().train(mode)
        for frozen in (self.encoder, self.text_encoder):
            if frozen is not None:
                frozen.eval()
        return self

    def user_part(self, request: RankRequest, row: int) -> SoftPrompt:
        words = self.judgement.words
        user = (Slot(USER, row), words(IS_USER)) if USER in self.config.tokens else ()
        newest = request.history[-self.config.question.history :].tolist()
        bought = (words(BOUGHT), self._listed(newest)) if newest else (words(NOTHING_BOUGHT),)
        one_of = (words(ONE_OF), self._listed(in_an_order_of_their_own(request.candidates)))
        return SoftPrompt.of(self.language_model.start(), *user, *bought, *one_of, words(ANSWER))

    def candidate_part(self, request: RankRequest, row: int, item: int) -> SoftPrompt:
        end = self.language_model.tokenizer.eos_token_id
        return SoftPrompt.of(self.judgement.title(item), [] if end is None else [end])

    def soft_tokens(self, requests: Sequence[RankRequest], prompts: Sequence[SoftPrompt]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for kind in self.config.tokens:
            keys = slot_keys(prompts, kind)
            if kind == USER:
                states = history_states(self.encoder, [requests[row].history for row in keys.tolist()])
                found[USER] = self.user_projector(states)
            else:
                latents_NZ = self.joint_NZ if self.config.latents == JOINT else self.text_NZ
                found[ITEM] = self.item_projector(latents_NZ[keys.to(latents_NZ.device)])
        return found

    def read_out(self, before_MH: Tensor, hidden_MSH: Tensor, parts: Sequence[SoftPrompt]) -> Tensor:
        states_MSH = torch.cat([before_MH[:, None], hidden_MSH[:, :-1]], dim=1)
        targets_MS = torch.full(states_MSH.shape[:2], _IGNORED, device=states_MSH.device)
        for row, part in enumerate(parts):
            targets_MS[row, : len(part)] = torch.tensor(part.parts)
        vocabulary = len(self.language_model.model.get_output_embeddings().weight)
        step = max(1, _LOGITS_AT_ONCE // (targets_MS.shape[1] * vocabulary))
        sums_M = torch.cat(
            [
                self._log_likelihoods(states_MSH[start : start + step], targets_MS[start : start + step])
                for start in range(0, len(parts), step)
            ]
        )
        return sums_M if self.config.score == SUM else sums_M / (targets_MS != _IGNORED).sum(1)

    @torch.inference_mode()
    def rank(self, requests: Sequence[RankRequest], *, share_prefix: bool = True) -> list[NDArray[np.float32]]:
        """As every ranker; requests of more candidates than a prompt lists are dealt out to several prompts."""
        pieces: list[RankRequest] = []
        places: list[tuple[int, int, int]] = []
        for row, request in enumerate(requests):
            number = max(1, -(-len(request.candidates) // self.config.shown))
            for first in range(number):
                # Dealt out like cards: lists that come best first make prompts of like strength.
                some = request.candidates[first::number]
                pieces.append(RankRequest(history=request.history, candidates=some, user_key=request.user_key))
                places.append((row, first, number))
        found = [np.empty(len(request.candidates), np.float32) for request in requests]
        for (row, first, number), scores in zip(places, super().rank(pieces, share_prefix=share_prefix), strict=True):
            found[row][first::number] = scores
        return found

    @torch.no_grad()
    def adopt(self, catalog: Catalog) -> None:
        """New items have the latent of their text; in histories they stand as what the item decoder makes of it."""
        super().adopt(catalog)
        self.judgement = Judgement(self.config.question, self.language_model, catalog)
        new = range(len(self.joint_NZ), len(catalog))
        if not new:
            return
        documents = [catalog.document(item) for item in new]
        if self.text_encoder is not None:
            texts_MX = self.text_encoder.encode(documents)
        else:
            texts_MX = torch.from_numpy(TextEncoder(self.config.text).encode(documents))
        latents_MZ = self.autoencoders.of_texts(texts_MX.to(self.joint_NZ.device))
        self.encoder.append(self.autoencoders.item_decoder(latents_MZ))
        self.encoder.requires_grad_(False)
        self.joint_NZ = torch.cat([self.joint_NZ, latents_MZ])
        self.text_NZ = torch.cat([self.text_NZ, latents_MZ])

    def _listed(self, items: Sequence[int]) -> SoftPrompt:
        """Titles, each with its slot, between commas and up to a full stop."""
        words = self.judgement.words
        pieces: list[SoftPrompt] = []
        for item in items:
            slot = (Slot(ITEM, item),) if ITEM in self.config.tokens else ()
            pieces.append(SoftPrompt.of(words(",") if pieces else (), self.judgement.title(item), *slot))
        return SoftPrompt.of(*pieces, words("."))

    def _log_likelihoods(self, states_MSH: Tensor, targets_MS: Tensor) -> Tensor:
        logits = self.language_model.logits(states_MSH)
        losses = functional.cross_entropy(
            logits.flatten(0, 1), targets_MS.flatten(), ignore_index=_IGNORED, reduction="none"
        )
        return -losses.view(targets_MS.shape).sum(1)


def in_an_order_of_their_own(candidates: NDArray[np.int32]) -> list[int]:
    """Distinct candidates shuffled by what they are, so that where one stood before says nothing.

    >>> in_an_order_of_their_own(np.array([5, 3, 9])) == in_an_order_of_their_own(np.array([9, 5, 3, 3]))
    True
    """
    distinct = np.unique(candidates)
    return [int(item) for item in np.random.default_rng(distinct).permutation(distinct)]


def longest_prompt(question: JudgementConfig, shown: int, words: int) -> int:
    """Tokens of the longest prompt whose templates have so many: with every title come its quote, slot and comma."""
    return words + (question.history + shown + 1) * (question.title_tokens + 3)


def _projector(size: int, hidden: int, activation: nn.Module) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(size, hidden), nn.LayerNorm(hidden), activation, nn.Linear(hidden, hidden))
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
    return network
