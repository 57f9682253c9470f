"""Ranking 100 items of a user takes a third of the time, or less, when the user's part of the prompt is read once.

Measured, on one CPU core in float32: a SeLLa-Rec ranker of the published form (three soft tokens, ten titles of a
history, a question for each candidate) with random weights, around language models of the shapes `scratch:small` and
`scratch:large`, with 20 and 100 candidates for one user at a time: `Ranker.rank` as it serves, and with
`share_prefix=False`, where every question is read whole, in batches as large. Titles are those of a generated shop, and
tokenised before. Before anything is timed the scores of both are compared: equal within 1e-4.
Floor: the multiplications of the tokens that each side has to read, 2 N (U + K C) and 2 N K (U + C) with N weights
outside the embeddings, U tokens of the user's part, C of a candidate's and K candidates, at the matrix product rate of
the same run. Padding, attention, copies of the prefix and the projections of soft tokens are left out.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.harness import Claim, Report, Spread, Table
from model_store.catalog import Catalog
from model_store.float32_products import use_fast_float32_products
from model_store.rankers.judgement import TEMPLATES as QUESTION_TEMPLATES
from model_store.rankers.judgement import JudgementConfig, longest_question
from model_store.rankers.ranker import RankRequest
from model_store.rankers.sella_rec import TEMPLATES as SELLA_TEMPLATES
from model_store.rankers.sella_rec import SellaRecConfig, SellaRecRanker
from model_store.rankers.user_keys import user_key
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.rankers.ranker_language_model import RankerLanguageModel, RankerLanguageModelConfig

_ITEMS, _USERS = 2000, 200
_HISTORY = 50
_ASKED = 8
_CANDIDATES = (20, 100)
_MODELS = ("scratch:small", "scratch:large")
_TOLERANCE = 1e-4
_TIMES = {20: 2.0, 100: 3.0}
_SHARED, _APART, _MATMUL = "shared", "apart", "matrix product"


class Bench:
    """One language model, its ranker, and users to rank for."""

    def __init__(self, llm: str, catalog: Catalog) -> None:
        torch.manual_seed(0)
        question = JudgementConfig()
        templates = (*QUESTION_TEMPLATES, *SELLA_TEMPLATES)
        config = RankerLanguageModelConfig(llm=llm)
        language_model = RankerLanguageModel(config, catalog, templates, longest_question(question, 96), "cpu", 0).soft
        self.ranker = SellaRecRanker(SellaRecConfig(users=_USERS, items=len(catalog)), language_model, catalog).eval()
        self.ranker.tables.name_users(sorted(user_key(f"user-{number}") for number in range(_USERS)))
        self._model: Any = language_model.model

    @property
    def hidden(self) -> int:
        """Hidden size of the language model."""
        return self.ranker.language_model.hidden_size

    def requests(self, candidates: int) -> list[RankRequest]:
        """Some users, each with candidates of their own."""
        random = np.random.default_rng(1)
        return [
            RankRequest(
                history=random.integers(0, _ITEMS, _HISTORY).astype(np.int32),
                candidates=random.permutation(_ITEMS)[:candidates].astype(np.int32),
                user_key=user_key(f"user-{number}"),
            )
            for number in range(_ASKED)
        ]

    def tokens(self, request: RankRequest) -> tuple[int, int]:
        """Tokens of the user's part, and of all candidates' parts together."""
        parts = (self.ranker.candidate_part(request, 0, item) for item in request.candidates.tolist())
        return len(self.ranker.user_part(request, 0)), sum(map(len, parts))

    def flops(self, tokens: float) -> float:
        """Multiplications and additions of so many tokens."""
        embeddings = self._model.get_input_embeddings().weight.numel()
        return 2.0 * (sum(parameter.numel() for parameter in self._model.parameters()) - embeddings) * tokens

    def assert_same(self, requests: Sequence[RankRequest]) -> None:
        """Sharing changes no score, and scores differ between items."""
        for request in requests:
            shared, apart = (self.ranker.rank([request], share_prefix=share)[0] for share in (True, False))
            if float(np.abs(shared - apart).max()) > _TOLERANCE:
                raise AssertionError("scores with a shared prefix are not those of whole prompts")
            if not shared.std() > 0:
                raise AssertionError("the ranker scores everything alike")


def measure(quick: bool) -> Report:
    """Both sides, on both models."""
    # Operations this small gain little from a second thread, and wait for it whenever something else has its core.
    torch.set_num_threads(1)
    # Both sides gain.
    use_fast_float32_products()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), users=_USERS, items=_ITEMS, seed=0)
        catalog = read_dataset(Path(folder)).catalog
    for llm in _MODELS:
        bench, rows = Bench(llm, catalog), []
        for count in _CANDIDATES:
            harness.progress(f"{llm}, {count} candidates")
            requests = bench.requests(count)
            bench.assert_same(requests[:1] if quick else requests)
            found, rate = _timed(bench, requests, 3 if quick else 9)
            users, endings = np.array([bench.tokens(request) for request in requests]).mean(axis=0)
            read = {_SHARED: users + endings, _APART: count * users + endings}
            floors = {side: bench.flops(tokens) / rate * 1000 for side, tokens in read.items()}
            shared, apart = (found[side].times(1000) for side in (_SHARED, _APART))
            ratio = apart.median / shared.median
            label = f"{llm}, {count} candidates"
            report.claims.append(Claim.at_least(f"less time with a shared prefix: {label}", ratio, "x", _TIMES[count]))
            rows.append(
                (
                    f"{count} candidates",
                    shared,
                    apart,
                    f"{ratio:.2f}",
                    f"{users:.0f} + {endings / count:.0f} each",
                    f"{read[_SHARED]:,.0f} : {read[_APART]:,.0f} = {read[_APART] / read[_SHARED]:.2f}",
                    f"{floors[_SHARED]:.1f} : {floors[_APART]:.1f}",
                    f"{shared.median / floors[_SHARED]:.1f} : {apart.median / floors[_APART]:.1f}",
                )
            )
        report.tables.append(
            Table(
                f"{llm}: ms for one user, median (min..max)",
                ("", _SHARED, _APART, "apart/shared", "tokens", "tokens read", "floors, ms", "time/floor"),
                rows,
            )
        )
    report.notes.append(f"{_ASKED} users with histories of {_HISTORY} items, of which ten are named; one thread")
    return report


def _timed(bench: Bench, requests: list[RankRequest], rounds: int) -> tuple[dict[str, Spread], float]:
    left, right = torch.randn(4096, bench.hidden), torch.randn(bench.hidden, 4 * bench.hidden)

    def ranked(share_prefix: bool) -> Callable[[], object]:
        turn = iter(range(1_000_000))
        return lambda: bench.ranker.rank([requests[next(turn) % len(requests)]], share_prefix=share_prefix)

    sides = {_SHARED: ranked(True), _APART: ranked(False), _MATMUL: lambda: torch.mm(left, right)}
    timed = {name: lambda call=call: harness.seconds(call) for name, call in sides.items()}
    found = harness.interleaved(timed, rounds)
    return found, 2.0 * 4096 * bench.hidden * 4 * bench.hidden / found[_MATMUL].median


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
