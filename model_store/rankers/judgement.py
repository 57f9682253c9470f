"""The question that judging rankers ask of an item, and how the answer is read: Yes or No.

    The user liked these items: "Red chair", "Wool socks". [what the ranker says of the user.]
    Is the user going to like "Garden gnome"[ what the ranker says of the item]? Answer: Yes

The score is the probability of Yes against No at the last place. Titles are in quotes and cut where they are long. The
user's and the item's part are tokenised apart, so that what is shared between items is the same to the token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import torch
from torch import Tensor

from model_store.catalog import Catalog
from model_store.errors import DecoderUnusable
from model_store.rankers.ranker import RankRequest
from model_store.rankers.soft_prompt import SoftPrompt
from model_store.rankers.soft_prompt_model import SoftPromptModel

YES, NO = " Yes", " No"
LIKED, NOTHING_LIKED = "The user liked these items:", "The user has liked nothing yet."
ASKED, BEFORE_ANSWER = " Is the user going to like", "? Answer:"
TEMPLATES = (LIKED, NOTHING_LIKED, ASKED, BEFORE_ANSWER, YES, NO)
"""Every word of the question, for a tokenizer to learn."""


@dataclass(frozen=True, kw_only=True)
class JudgementConfig:
    """How a question is written."""

    history: int = 10
    """Newest items of a history that are named."""
    title_tokens: int = 16
    """Tokens of a title; longer ones are cut."""


class Judgement:
    """Writes questions about the items of one catalogue, and reads answers.

    Args:
        config: settings.
        language_model: whose tokenizer and output are used.
        catalog: the items.
    """

    def __init__(self, config: JudgementConfig, language_model: SoftPromptModel, catalog: Catalog) -> None:
        self._config = config
        self._model = language_model
        self._catalog = catalog
        self._titles: dict[int, list[int]] = {}
        self._words: dict[str, list[int]] = {}

    @property
    def longest(self) -> int:
        """Tokens of the longest question, without what a ranker adds to it."""
        return longest_question(self._config, sum(len(self.words(template)) for template in TEMPLATES))

    def words(self, text: str) -> list[int]:
        """Token ids of a template's text; tokenised once."""
        if text not in self._words:
            self._words[text] = self._model.text(text)
        return self._words[text]

    def title(self, item: int) -> list[int]:
        """Token ids of an item's title in quotes; of its id where it has none."""
        if item not in self._titles:
            name = " ".join(self._catalog.titles[item].split()) or self._catalog.item_ids[item]
            tokens = self._model.text(f' "{name}')[: self._config.title_tokens]
            self._titles[item] = [*tokens, *self.words('"')]
        return self._titles[item]

    def user(self, request: RankRequest, about_user: SoftPrompt = SoftPrompt(())) -> SoftPrompt:  # noqa: B008
        """The user's part: the newest items of the history, and what the ranker says of the user."""
        newest = request.history[-self._config.history :].tolist()
        liked = [token for item in newest for token in (*self.title(item), *self.words(","))]
        said = [*self.words(LIKED), *liked[: -len(self.words(","))], *self.words(".")]
        history = said if newest else self.words(NOTHING_LIKED)
        return SoftPrompt.of(self._model.start(), history, about_user, self.words(ASKED))

    def item(self, item: int, about_item: SoftPrompt = SoftPrompt(())) -> SoftPrompt:  # noqa: B008
        """The item's part: its title, and what the ranker says of it."""
        return SoftPrompt.of(self.title(item), about_item, self.words(BEFORE_ANSWER), self._alike)

    @cached_property
    def answers(self) -> Tensor:
        """Token ids by which No and Yes differ; int64 [2].

        Raises:
            DecoderUnusable: they do not differ in this tokenizer.
        """
        at = len(self._alike)
        written = [self.words(answer)[at : at + 1] for answer in (NO, YES)]
        if not all(written):
            raise DecoderUnusable("the language model's tokenizer does not tell Yes from No; choose another model")
        return torch.tensor([ids[0] for ids in written], device=self._model.device)

    @cached_property
    def _alike(self) -> list[int]:
        """Tokens that both answers begin with, such as a blank; the question ends with them."""
        pairs = zip(self.words(NO), self.words(YES), strict=False)
        return [no for no, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]

    def read_out(self, hidden_MSH: Tensor, parts: Sequence[SoftPrompt]) -> Tensor:
        """P(Yes) against No behind each item's part; float32 [M]."""
        return self._model.logits(last_of(hidden_MSH, parts), self.answers).softmax(-1)[:, 1]


def longest_question(config: JudgementConfig, words: int) -> int:
    """Tokens of the longest question whose templates have so many."""
    return words + (config.history + 1) * (config.title_tokens + 2)


def last_of(hidden_MSH: Tensor, parts: Sequence[SoftPrompt]) -> Tensor:
    """The hidden state at each part's last token; [M, H]."""
    ends = torch.tensor([len(part) - 1 for part in parts], device=hidden_MSH.device)
    return hidden_MSH[torch.arange(len(parts), device=hidden_MSH.device), ends]
