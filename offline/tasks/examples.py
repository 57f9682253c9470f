"""Examples of the alignment tasks: prompts with the responses to learn.

The families of `offline.tasks.task_mix`, after LC-Rec (arXiv:2311.09049) and Semantic Convergence (arXiv:2412.13771).
What we changed: a history is written as the sequential task writes it, queries and preferences are made without a
language model, and the items to tell a negative from are the user's own later ones, then what others took next.

"Next" items come from random positions of the training histories, so a held-out item is never a right answer for its
user; and what a user took at any time is never a wrong one.

Shapes: N items, L levels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from model_store.errors import TesseraError
from model_store.instructions import NO, PARAPHRASES, YES
from model_store.item_codes import ItemCodes
from model_store.prompts import PromptEncoder
from offline.leave_one_out import Histories
from offline.tasks.item_texts import BOTH, TITLE, ItemTexts
from offline.tasks.negatives import NegativeSampler
from offline.tasks.next_items import NextItems
from offline.tasks.preferences import PreferenceWriter
from offline.tasks.queries import QueryWriter
from offline.tasks.task_mix import FAMILIES, TaskConfig

MAX_TEXT_TOKENS = 48
"""Tokens of a response in words, before its end token; the rest is cut."""

_LEAST_TEXT = 8
"""Tokens of text that must fit into every instruction with a text slot."""

_NO_HISTORY = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, eq=False)
class TaskExample:
    """A prompt and its response.

    Attributes:
        family: one of `FAMILIES`.
        tokens: int32; the prompt, then the response.
        response_start: where the response starts.
        item: the item whose code is the response (its L tokens are the last); -1 where the response is text.
    """

    family: str
    tokens: NDArray[np.int32]
    response_start: int
    item: int


class TaskSampler:
    """Draws examples.

    Args:
        train: histories to learn from, without held-out items.
        catalog, codes, prompts: the items, and how they are written.
        config: how much of each family.
        excluded_per_user: whole histories of the same users, held-out items included: never wrong answers.
        seed: of the order in which items and positions take their turns.

    Attributes:
        families: those in use: with a weight, and with data to feed them.

    Raises:
        TesseraError: the tokenizer has no end token, or an instruction has no room for its items.
    """

    def __init__(
        self,
        train: Histories,
        catalog: Catalog,
        codes: ItemCodes,
        prompts: PromptEncoder,
        config: TaskConfig,
        excluded_per_user: Histories,
        seed: int,
    ) -> None:
        self._prompts, self._config = prompts, config
        self._train = NextItems(train)
        self._texts = ItemTexts(catalog, prompts)
        self._queries = QueryWriter(catalog)
        self._preferences = PreferenceWriter(catalog)
        self._negatives = NegativeSampler(codes, train, excluded_per_user, config.hard_negatives)
        self._end = prompts.tokenizer.eos_token_id
        self._answers = {answer: prompts.phrase(answer) for answer in (YES, NO)}
        self._room_for_titles = min(prompts.room(template) for template in PARAPHRASES["titles_to_code"])
        self._makers: dict[str, Callable[[int, np.random.Generator], TaskExample]] = {
            "text_to_code": self._text_to_code,
            "code_to_text": self._code_to_text,
            "titles_to_code": self._titles_to_code,
            "history_to_title": self._history_to_title,
            "query_to_code": self._query_to_code,
            "query_with_history": self._query_with_history,
            "preference": self._preference,
            "judge": self._judge,
            "choose": self._choose,
            "avoid": self._avoid,
        }
        wanted = [family for family in FAMILIES if getattr(config, family) > 0]
        self._check(wanted)
        # A draw takes its candidates from a random place of a fixed shuffle on: none twice before all had their turn.
        self._candidates = {
            family: np.random.default_rng((seed, at)).permutation(candidates)
            for at, family in enumerate(wanted)
            if len(candidates := self._find_candidates(family))
        }
        self.families = tuple(self._candidates)

    @property
    def max_length(self) -> int:
        """Tokens of the longest example."""
        levels = int(self._prompts.item_tokens_NL.shape[1])
        return self._prompts.max_length + max(levels, MAX_TEXT_TOKENS + 1)

    def draw(self, tokens: int, rng: np.random.Generator) -> list[TaskExample]:
        """Examples of at least `tokens` tokens in all, by less than one example more; families by weight.

        The same state of `rng` gives the same examples. Empty when no family is in use.
        """
        if not self.families:
            return []
        weights = np.array([getattr(self._config, family) for family in self.families])
        bounds = np.cumsum(weights / weights.sum())
        turns = {family: int(rng.integers(len(self._candidates[family]))) for family in self.families}
        examples: list[TaskExample] = []
        drawn = 0
        while drawn < tokens:
            # The last bound is 1 but for rounding.
            family = self.families[min(int(np.searchsorted(bounds, rng.random(), "right")), len(bounds) - 1)]
            candidates = self._candidates[family]
            example = self._makers[family](int(candidates[turns[family] % len(candidates)]), rng)
            turns[family] += 1
            examples.append(example)
            drawn += len(example.tokens)
        return examples

    def _find_candidates(self, family: str) -> NDArray[np.int64]:
        """What examples of a family are made of: items, or events that come next in a history."""
        events = self._train.events
        next_items, last_items = self._train.items[events], self._train.items[events - 1]
        has_text: NDArray[np.bool_] = np.array([bool(fields) for fields in self._texts.fields])
        has_title: NDArray[np.bool_] = np.array([TITLE in fields for fields in self._texts.fields])
        match family:
            case "text_to_code" | "code_to_text":
                return np.flatnonzero(has_text)
            case "query_to_code":
                return np.flatnonzero(self._queries.writable)
            case "titles_to_code":
                return events[has_title[last_items]]
            case "history_to_title":
                return events[has_text[next_items]]
            case "query_with_history":
                return events[self._queries.writable[next_items]]
            case "preference":
                return events[self._preferences.has_terms[next_items]]
            case _:
                return events[self._negatives.open_counts[self._train.users] > 0]

    def _check(self, wanted: list[str]) -> None:
        if self._end is None and {"code_to_text", "history_to_title", "preference", "judge"} & set(wanted):
            raise TesseraError(
                "tasks: the tokenizer has no end token, which answers in words need; give it one, or set "
                "tasks.code_to_text, tasks.history_to_title, tasks.preference and tasks.judge to 0"
            )
        listed = {"choose": 1 + self._config.negatives, "avoid": 1 + self._config.negatives}
        for family in wanted:
            for template in PARAPHRASES[family]:
                least = _LEAST_TEXT if "{text}" in template else 0
                if (
                    self._prompts.room(
                        template.replace("{field}", BOTH), listed.get(family, int("{items}" in template))
                    )
                    < least
                ):
                    raise TesseraError(
                        f"tasks.{family}: {template!r} does not fit an instruction of this tokenizer; "
                        f"lower tasks.negatives or set tasks.{family} to 0"
                    )

    def _text_to_code(self, item: int, rng: np.random.Generator) -> TaskExample:
        text = self._texts.tokens(item, _pick(self._texts.fields[item], rng))
        return self._code("text_to_code", None, self._ask("text_to_code", rng, text=text), item)

    def _code_to_text(self, item: int, rng: np.random.Generator) -> TaskExample:
        field = _pick(self._texts.fields[item], rng)
        ask = self._ask("code_to_text", rng, items=[item], field=field)
        return self._words("code_to_text", None, ask, self._texts.tokens(item, field))

    def _titles_to_code(self, event: int, rng: np.random.Generator) -> TaskExample:
        titles = self._texts.titles(self._train.before(event)[-self._prompts.max_history :], self._room_for_titles)
        return self._code("titles_to_code", None, self._ask("titles_to_code", rng, text=titles), self._next(event))

    def _history_to_title(self, event: int, rng: np.random.Generator) -> TaskExample:
        item = self._next(event)
        field = _pick([field for field in self._texts.fields[item] if field != BOTH], rng)
        ask = self._ask("history_to_title", rng, field=field)
        return self._words("history_to_title", event, ask, self._texts.tokens(item, field))

    def _query_to_code(self, item: int, rng: np.random.Generator) -> TaskExample:
        text = self._prompts.query_text(self._queries.draw(item, rng))
        return self._code("query_to_code", None, self._ask("query_to_code", rng, text=text), item)

    def _query_with_history(self, event: int, rng: np.random.Generator) -> TaskExample:
        item = self._next(event)
        text = self._prompts.query_text(self._queries.draw(item, rng))
        return self._code("query_with_history", event, self._ask("query_with_history", rng, text=text), item)

    def _preference(self, event: int, rng: np.random.Generator) -> TaskExample:
        liked = self._preferences.write(self._train.all_of(self._train.user(event)))
        return self._words("preference", event, self._ask("preference", rng), self._prompts.phrase(liked))

    def _judge(self, event: int, rng: np.random.Generator) -> TaskExample:
        item, answer = self._next(event), YES
        if rng.random() < 0.5:
            (item,), answer = self._negatives.draw(self._train.user(event), item, 1, rng), NO
        return self._words("judge", event, self._ask("judge", rng, items=[item]), self._answers[answer])

    def _choose(self, event: int, rng: np.random.Generator) -> TaskExample:
        item = self._next(event)
        listed = [item, *self._negatives.draw(self._train.user(event), item, self._config.negatives, rng)]
        ask = self._ask("choose", rng, items=rng.permutation(listed).tolist())
        return self._code("choose", event, ask, item)

    def _avoid(self, event: int, rng: np.random.Generator) -> TaskExample:
        user, count = self._train.user(event), self._config.negatives
        own = list(dict.fromkeys(self._train.since(event).tolist()))[:count]
        last = int(self._train.before(event)[-1])
        others = [item for item in self._train.after(last, count, rng) if self._negatives.is_open(user, item)]
        liked = [*own, *others][:count]
        negatives = self._negatives.draw(user, own[0], 1, rng, besides=liked)
        if not negatives:
            # The user's neighbours took all that is left: without them there is one.
            liked, negatives = own, self._negatives.draw(user, own[0], 1, rng)
        ask = self._ask("avoid", rng, items=rng.permutation([*liked, *negatives]).tolist())
        return self._code("avoid", event, ask, negatives[0])

    def _next(self, event: int) -> int:
        return int(self._train.items[event])

    def _ask(
        self,
        family: str,
        rng: np.random.Generator,
        *,
        text: Sequence[int] = (),
        items: Sequence[int] = (),
        field: str = "",
    ) -> list[int]:
        template = _pick(PARAPHRASES[family], rng).replace("{field}", field)
        return self._prompts.fill(template, text=text, items=items)

    def _code(self, family: str, event: int | None, ask: list[int], item: int) -> TaskExample:
        return self._example(family, event, ask, self._prompts.item_tokens_NL[item], item)

    def _words(self, family: str, event: int | None, ask: list[int], words: list[int]) -> TaskExample:
        response = np.array([*words[:MAX_TEXT_TOKENS], self._end], dtype=np.int32)
        return self._example(family, event, ask, response, item=-1)

    def _example(
        self, family: str, event: int | None, ask: list[int], response: NDArray[np.int32], item: int
    ) -> TaskExample:
        history = _NO_HISTORY if event is None else self._train.before(event)
        prompt = self._prompts.instruction(history, ask)
        return TaskExample(family, np.concatenate([prompt, response]), len(prompt), item)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.random() * len(options))]
