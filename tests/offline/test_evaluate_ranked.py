"""`tessera evaluate`: a version's ranker beside its generator, on the same candidates."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import tessera
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from model_store.rankers.ranker import RankRequest
from model_store.rankers.ranker_files import load_ranker
from model_store.rankers.user_keys import user_key
from offline.evaluate import Reranking, evaluate
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.leave_one_out import leave_one_out
from offline.ranking_metrics import ranking_metrics
from tests.ranked_bundle import publish_with_ranker
from tests.tiny_bundle import build_tiny_bundle

USERS, CANDIDATES = 30, 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=USERS, items=60, seed=0)
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return read_dataset(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, dataset):
    store = tmp_path_factory.mktemp("store")
    return build_tiny_bundle(store, catalog=dataset.catalog, data_fingerprint=dataset.fingerprint)


@pytest.fixture(scope="module")
def ranked(bundle):
    return publish_with_ranker(bundle.path.parent, bundle)


@pytest.fixture(scope="module")
def decoder(ranked):
    return TorchDecoder.from_bundle(ranked, device="cpu")


def test_a_rankers_row_is_its_order_of_the_generators_candidates(ranked, decoder, dataset):
    weights = Reranking(candidates=CANDIDATES, weights=(1.0, 0.0, 0.5))
    result = evaluate(ranked, decoder, dataset, "valid", 20, reranking=weights)
    cases = leave_one_out(dataset).evaluation_cases("valid")
    ranker = load_ranker(ranked.ranker_path, ranked.catalog)
    for protocol, excluded in (("all", False), ("unseen", True)):
        ranks, among = [], 0
        for row, target in enumerate(cases.targets.tolist()):
            history = cases.histories[row]
            seen = history if excluded else np.empty(0, np.int32)
            (found,) = decoder.decode(
                [DecodeRequest(history=history, n=CANDIDATES, beam_width=CANDIDATES, excluded=seen)]
            )
            items = np.array([one.item for one in found], dtype=np.int32)
            key = user_key(dataset.user_ids[cases.users[row]])
            (scores,) = ranker.rank([RankRequest(history=history, candidates=items, user_key=key)])
            order = items[np.argsort(-scores, kind="stable")].tolist()
            ranks.append(order.index(target) + 1 if target in order else 0)
            among += target in order
        rows = result.protocols[protocol]
        assert list(rows)[:4] == ["tessera", "sella-small", "sella-small x 0", "sella-small x 0.5"]
        assert rows["sella-small"] == pytest.approx(ranking_metrics(np.array(ranks)))
        assert rows["sella-small x 0"] == rows["tessera"] != rows["sella-small"]
        assert rows["sella-small x 0.5"] != rows["sella-small"]
        assert result.among_candidates[protocol] == pytest.approx(among / len(cases.targets))
        assert result.among_candidates[protocol] >= rows["sella-small"]["recall@20"]


def test_without_a_ranker_everything_else_is_the_same(ranked, decoder, dataset):
    beside = evaluate(ranked, decoder, dataset, "test", 50, reranking=Reranking(candidates=CANDIDATES))
    alone = evaluate(ranked, decoder, dataset, "test", 50)
    assert alone.among_candidates == {}
    for protocol, rows in alone.protocols.items():
        assert {name: beside.protocols[protocol][name] for name in rows} == rows
        assert beside.protocols[protocol].keys() - rows.keys() == {"sella-small"}


def test_some_users_are_drawn_alike_every_time(ranked, decoder, dataset):
    some, again = (evaluate(ranked, decoder, dataset, "test", 20, users=7) for _ in range(2))
    assert (some.users, some) == (7, again)
    cases = leave_one_out(dataset).evaluation_cases("test")
    rows = np.array([5, 2])
    chosen = cases.select(rows)
    assert [chosen.histories[at].tolist() for at in range(2)] == [cases.histories[row].tolist() for row in rows]
    assert chosen.targets.tolist() == cases.targets[rows].tolist()
    assert chosen.users.tolist() == cases.users[rows].tolist()


def test_fewer_candidates_than_are_measured_are_refused():
    with pytest.raises(TesseraError, match="19 candidates; at least 20"):
        Reranking(candidates=19)


@pytest.fixture
def run(bundle, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TESSERA_STORE", str(bundle.path.parent))
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    return lambda *words: CliRunner().invoke(tessera.app, ["evaluate", "--data", str(folder), "--users", "8", *words])


def test_the_command_prints_the_rankers_rows(run, ranked):
    words = ["--version", ranked.version, "--split", "valid", "--rank", "--rank-weight", "1", "--rank-weight", "0.25"]
    found = json.loads(run(*words, "--json").stdout)
    assert (found["users"], found["split"]) == (8, "valid")
    text = run(*words)
    assert text.exit_code == 0, text.output
    for protocol in ("all", "unseen"):
        for name in ("sella-small", "sella-small x 0.25"):
            cells = [f"{value:.4f}" for value in found["protocols"][protocol][name].values()]
            assert any(line.split()[-len(cells) :] == cells and name in line for line in text.stdout.splitlines())
        assert f"the 50 candidates hold the item of {found['among_candidates'][protocol]:.4f}" in text.stdout


def test_a_version_without_a_ranker_is_a_clear_error(run, bundle):
    done = run("--version", bundle.version, "--rank")
    assert (done.exit_code, f"version {bundle.version} has no ranker" in done.stderr) == (1, True)


@pytest.mark.parametrize("option", [["--rank-weight", "0.5"], ["--candidates", "30"]])
def test_options_of_a_ranker_are_for_rank_alone(run, option):
    done = run(*option)
    assert (done.exit_code, option[0] in done.stderr, "only with --rank" in done.stderr) == (2, True, True)
