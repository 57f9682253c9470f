"""What every ranker can do: score the items that it is given, for a user.

A ranker writes its question in two parts. The user's part comes first and is the same for all candidates, so it goes
through the language model once; a candidate's part follows it. What the model says there is read out as the score.

Shapes: B requests, K candidates of one, M candidate parts of a pass, S tokens of the longest, H hidden size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_store.catalog import Catalog
from model_store.rankers.soft_prompt import SoftPrompt
from model_store.rankers.soft_prompt_model import SoftPromptModel

_USERS_A_PASS = 8
_PROMPTS_A_PASS = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class RankRequest:
    """Items to be scored for one user.

    Attributes:
        history: item indices, oldest first; int32 [H], may be empty.
        candidates: item indices; int32 [K].
        user_key: who it is (see `user_keys`); None for somebody who is only a history.
    """

    history: NDArray[np.int32]
    candidates: NDArray[np.int32]
    user_key: int | None = None


class Ranker(nn.Module, ABC):
    """Scores given items. Its parameters are what belongs to it beside the language model.

    A paper is a subclass: four small methods, and the modules that they use. Settings that can be written as JSON are
    all that it is made from, apart from the language model and the catalogue.

    Args:
        config: a frozen dataclass, the class's `config_type`.
        language_model: reads its prompts.
        catalog: the items.
    """

    kind: ClassVar[str]
    """Its name in bundles and answers."""
    config_type: ClassVar[type[Any]]
    """Dataclass of its settings."""

    def __init__(self, config: Any, language_model: SoftPromptModel, catalog: Catalog) -> None:
        super().__init__()
        self.config = config
        self.language_model = language_model
        self.catalog = catalog

    @abstractmethod
    def user_part(self, request: RankRequest, row: int) -> SoftPrompt:
        """What is said before any candidate; never empty. `row` is the request's number in its batch."""

    @abstractmethod
    def candidate_part(self, request: RankRequest, row: int, item: int) -> SoftPrompt:
        """What is said of one candidate; never empty."""

    @abstractmethod
    def soft_tokens(self, requests: Sequence[RankRequest], prompts: Sequence[SoftPrompt]) -> dict[str, Tensor]:
        """Vectors for every slot of the prompts, by kind, in the order of `slot_keys`; [slots, H] each.

        Args:
            requests: the batch; a user's slot has the number of the request as its key.
            prompts: any parts of that batch's prompts.
        """

    @abstractmethod
    def read_out(self, before_MH: Tensor, hidden_MSH: Tensor, parts: Sequence[SoftPrompt]) -> Tensor:
        """The score of each candidate, larger is better; float32 [M].

        Args:
            before_MH: the last hidden state of the user's part.
            hidden_MSH: those of the candidate's part, padded behind.
            parts: the candidate parts.
        """

    def adopt(self, catalog: Catalog) -> None:
        """Take the place of the catalogue that it was trained with: the same items, and then new ones.

        Called when a version is opened whose catalogue has grown. A ranker with tables of items lets them grow here.
        """
        self.catalog = catalog

    @torch.inference_mode()
    def rank(self, requests: Sequence[RankRequest], *, share_prefix: bool = True) -> list[NDArray[np.float32]]:
        """Score all candidates of all requests; for each request float32 [K], in the order of its candidates.

        Args:
            requests: any number; they go through the model a few at a time.
            share_prefix: whether the user's part is read once for all candidates. The scores are the same.
        """
        self.eval()
        self.language_model.model.eval()
        # With one candidate each there is nothing to share.
        shared = share_prefix and any(len(request.candidates) > 1 for request in requests)
        step = _USERS_A_PASS if shared else _PROMPTS_A_PASS
        scores: list[NDArray[np.float32]] = []
        for start in range(0, len(requests), step):
            some = requests[start : start + step]
            scores += self._shared(some) if shared else self._apart(some)
        return scores

    def whole_prompts(
        self, requests: Sequence[RankRequest], rows: Sequence[int], items: Sequence[int]
    ) -> tuple[list[SoftPrompt], list[SoftPrompt]]:
        """The user's and the candidate's part of every pair of a request's number and an item."""
        users = {row: self.user_part(requests[row], row) for row in set(rows)}
        parts = [self.candidate_part(requests[row], row, item) for row, item in zip(rows, items, strict=True)]
        return [users[row] for row in rows], parts

    def scores(self, requests: Sequence[RankRequest], rows: Sequence[int], items: Sequence[int]) -> Tensor:
        """The score of every pair of a request's number and an item, each prompt read whole; [M], with gradients."""
        users, parts = self.whole_prompts(requests, rows, items)
        hidden_MTH, starts_M = self.hidden_of(requests, users, parts)
        longest = max(len(part) for part in parts)
        at_MS = (starts_M[:, None] + torch.arange(longest, device=starts_M.device)).clamp(max=hidden_MTH.shape[1] - 1)
        every = torch.arange(len(parts), device=starts_M.device)
        return self.read_out(hidden_MTH[every, starts_M - 1], hidden_MTH[every[:, None], at_MS], parts)

    def hidden_of(
        self, requests: Sequence[RankRequest], users: Sequence[SoftPrompt], parts: Sequence[SoftPrompt]
    ) -> tuple[Tensor, Tensor]:
        """The last hidden states of user parts and what follows each, [M, T, H], and where that begins, int64 [M]."""
        prompts = [user + part for user, part in zip(users, parts, strict=True)]
        batch = self.language_model.embed(prompts, self.soft_tokens(requests, prompts))
        starts = torch.tensor([len(user) for user in users], device=self.language_model.device)
        return self.language_model.hidden(batch), starts

    def _shared(self, requests: Sequence[RankRequest]) -> list[NDArray[np.float32]]:
        model = self.language_model
        users = [self.user_part(request, row) for row, request in enumerate(requests)]
        prefix = model.prefill(model.embed(users, self.soft_tokens(requests, users), pad_left=True))

        def score(rows: list[int], items: list[int]) -> Tensor:
            parts = [self.candidate_part(requests[row], row, item) for row, item in zip(rows, items, strict=True)]
            endings = model.embed(parts, self.soft_tokens(requests, parts))
            own = prefix.rows(torch.tensor(rows, device=model.device))
            return self.read_out(own.last_BH, model.extend(own, endings), parts)

        return _in_passes(requests, score)

    def _apart(self, requests: Sequence[RankRequest]) -> list[NDArray[np.float32]]:
        return _in_passes(requests, lambda rows, items: self.scores(requests, rows, items))


def _in_passes(
    requests: Sequence[RankRequest], score: Callable[[list[int], list[int]], Tensor]
) -> list[NDArray[np.float32]]:
    pairs = [(row, int(item)) for row, request in enumerate(requests) for item in request.candidates]
    found = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), _PROMPTS_A_PASS):
        some = pairs[start : start + _PROMPTS_A_PASS]
        rows, items = [row for row, _ in some], [item for _, item in some]
        found[start : start + len(some)] = score(rows, items).float().cpu().numpy()
    ends = np.cumsum([len(request.candidates) for request in requests])[:-1]
    return list(np.split(found, ends))
