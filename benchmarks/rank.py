"""Reading the user's part of the prompt once ranks 100 candidates at least three times as fast as reading it for each.

Measured: `Ranker.rank` for one user with 20 and with 100 candidates, with the user's part shared and with every prompt
read whole, in turns; and the largest difference between the two ways' scores. The ranker is a SeLLa-Rec around an
untrained language model: what a pass costs does not depend on what was learned.
Floor: one pass over the user's part alone.
"""

from time import perf_counter

import numpy as np
import torch

from benchmarks import harness
from benchmarks.harness import Claim, Report, Spread, Table
from model_store.catalog import Catalog
from model_store.rankers.judgement import TEMPLATES as QUESTION_TEMPLATES
from model_store.rankers.judgement import JudgementConfig
from model_store.rankers.ranker import RankRequest
from model_store.rankers.sella_rec import TEMPLATES, SellaRecConfig, SellaRecRanker
from model_store.rankers.soft_prompt_model import SoftPromptModel
from offline.rankers.ranker_language_model import RankerLanguageModel, RankerLanguageModelConfig

_ITEMS, _USERS, _HISTORY = 500, 100, 10
_TIMES_FASTER = 3.0
_LARGEST_DIFFERENCE = 1e-4
_WORDS = ("garden", "kitchen", "wool", "slate", "small", "red", "folding", "chair", "kettle", "lamp", "of", "oak")


def measure(quick: bool) -> Report:
    """Rank for one user, both ways in turns."""
    ranker = _ranker("scratch:tiny" if quick else "scratch:medium")
    random = np.random.default_rng(0)
    rounds = 5 if quick else 15
    rows, faster, difference = [], 0.0, 0.0
    for count in (20, 100):
        harness.progress(f"{count} candidates")
        history = random.integers(0, _ITEMS, _HISTORY).astype(np.int32)
        request = RankRequest(history=history, candidates=random.permutation(_ITEMS)[:count].astype(np.int32))
        shared, apart, alone = [], [], []
        for _ in range(rounds):
            begin = perf_counter()
            together = ranker.rank([request])[0]
            shared.append(perf_counter() - begin)
            begin = perf_counter()
            each = ranker.rank([request], share_prefix=False)[0]
            apart.append(perf_counter() - begin)
            begin = perf_counter()
            _user_part_alone(ranker, request)
            alone.append(perf_counter() - begin)
            difference = max(difference, float(np.abs(together - each).max()))
        faster = Spread.of(apart).median / Spread.of(shared).median
        rows.append((f"{count} candidates", *(Spread.of(times).times(1000) for times in (shared, apart, alone))))
    return Report(
        tables=[Table("one user, ms", ("", "shared", "read whole", "user's part alone"), rows)],
        claims=[
            Claim.at_least("100 candidates, shared against read whole", faster, "times", _TIMES_FASTER),
            Claim.at_most("largest difference of a score", difference, "", _LARGEST_DIFFERENCE),
        ],
    )


@torch.inference_mode()
def _user_part_alone(ranker: SellaRecRanker, request: RankRequest) -> None:
    model = ranker.language_model
    user = [ranker.user_part(request, 0)]
    model.prefill(model.embed(user, ranker.soft_tokens([request], user), pad_left=True))


def _ranker(llm: str) -> SellaRecRanker:
    random = np.random.default_rng(1)
    catalog = Catalog(
        item_ids=tuple(f"item-{number}" for number in range(_ITEMS)),
        titles=tuple(" ".join(random.choice(_WORDS, 6)) for _ in range(_ITEMS)),
        texts=("",) * _ITEMS,
        categories=((),) * _ITEMS,
        prices=np.full(_ITEMS, np.nan, dtype=np.float32),
        attributes=({},) * _ITEMS,
        available=np.ones(_ITEMS, dtype=np.bool_),
    )
    config = RankerLanguageModelConfig(llm=llm, text_vocabulary=512)
    model: SoftPromptModel = RankerLanguageModel(config, catalog, (*QUESTION_TEMPLATES, *TEMPLATES), 512, "cpu", 0).soft
    question = JudgementConfig(history=_HISTORY)
    return SellaRecRanker(SellaRecConfig(users=_USERS, items=_ITEMS, question=question), model, catalog).eval()


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
