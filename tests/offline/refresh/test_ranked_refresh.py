"""`refresh --rank`: cached lists are the version's ranker's order of the generator's candidates."""

import json
from dataclasses import replace

import numpy as np
import orjson
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

import tessera
from model_store.bundle import ModelStore
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import BundleCorrupt, TesseraError
from model_store.prefix_trie import EligibleItems
from model_store.rankers.ranker import RankRequest
from model_store.rankers.ranker_files import load_ranker
from model_store.rankers.user_keys import user_key
from offline.refresh.cache_stats import cache_stats
from offline.refresh.config import RefreshConfig
from offline.refresh.followed_version import FollowedVersion
from offline.refresh.ledger import Ledger, ShardDone
from offline.refresh.ray_worker import ShardWorker, WorkerJob, done_of, table_of
from offline.refresh.registered_caches import registered_caches
from offline.refresh.user_plan import Shard
from offline.refresh.user_refresh import UserRefresh
from tests.cached_entries import cached_users, put_packed
from tests.offline.refresh.conftest import CONFIG, KEYS, RANKED, DiesAt
from tests.offline.refresh.ray_refresh import torch_decoder


@pytest.fixture(scope="module")
def expected(ranked_bundle, decoder, dataset):
    """Of each user the generator's candidates, with their scores, and what the ranker says of each."""
    ranker = load_ranker(ranked_bundle.ranker_path, ranked_bundle.catalog)
    in_stock = EligibleItems.from_mask(ranked_bundle.trie, ranked_bundle.catalog.available)
    found = {}
    for row, user in enumerate(dataset.user_ids):
        history = dataset.history(row).astype(np.int32)
        (decoded,) = decoder.decode(
            [DecodeRequest(history=history, n=12, beam_width=12, excluded=history, eligible=in_stock)]
        )
        candidates = np.array([one.item for one in decoded], dtype=np.int32)
        asked = RankRequest(history=history, candidates=candidates, user_key=user_key(user))
        (judged,) = ranker.rank([asked], share_prefix=False)
        found[user] = (candidates, np.array([one.score for one in decoded]), judged)
    return found


def items_of(refresh, bundle, user):
    return bundle.item_codes.items_of(refresh.entry(user).codes_KL)


def assert_ranked(refresh, bundle, user, expected):
    """Its entry is the first five of the twelve candidates in the ranker's order, each with the generator's score."""
    candidates, scores, judged = expected[user]
    items = items_of(refresh, bundle, user)
    places = [candidates.tolist().index(item) for item in items]
    assert len(set(places)) == 5
    # What the ranker finds alike to the last digit may stand either way.
    assert judged[places] == pytest.approx(np.sort(judged)[::-1][:5], abs=1e-5)
    entry = refresh.entry(user)
    assert entry.scores.astype(float) == pytest.approx(scores[places], rel=2e-3)
    assert entry.generator == "torch+ranker"


def test_every_list_is_the_rankers_order_of_the_generators_candidates(refresh, ranked_bundle, users, expected):
    summary = refresh(users, bundle=ranked_bundle, config=RANKED)
    assert (summary.users, summary.coverage, summary.k, summary.candidates) == (70, 1, 5, 12)
    for user in users:
        assert_ranked(refresh, ranked_bundle, user, expected)
    moved = [
        user for user in users if items_of(refresh, ranked_bundle, user).tolist() != expected[user][0][:5].tolist()
    ]
    assert len(moved) > 60, "a ranker that changes nothing would show nothing"


def test_the_weight_mixes_standardised_scores(refresh, ranked_bundle, users, expected):
    refresh(users, bundle=ranked_bundle, config=replace(RANKED, rank_weight=0.0))
    for user in users:
        assert items_of(refresh, ranked_bundle, user).tolist() == expected[user][0][:5].tolist()
    refresh(users, bundle=ranked_bundle, config=replace(RANKED, rank_weight=0.3))
    for user in users:
        candidates, scores, judged = expected[user]
        mixed = 0.7 * (scores - scores.mean()) / scores.std() + 0.3 * (judged - judged.mean()) / judged.std()
        places = [candidates.tolist().index(item) for item in items_of(refresh, ranked_bundle, user)]
        assert mixed[places] == pytest.approx(np.sort(mixed)[::-1][:5], abs=1e-3)


def test_a_killed_refresh_goes_on_ranking(redis, refresh, decoder, ranked_bundle, users, expected):
    with pytest.raises(KeyboardInterrupt):
        refresh(users, bundle=ranked_bundle, decoder=DiesAt(decoder, 2), config=RANKED)
    first = next(user for user in users if refresh.packed(user))
    put_packed(redis, KEYS, ranked_bundle.entry_layout, first, b"untouched")
    summary = refresh(users, bundle=ranked_bundle, config=RANKED, resume=True)
    assert (summary.users, summary.candidates) == (70, 12)
    assert refresh.packed(first) == b"untouched"
    for user in set(users) - {first}:
        assert_ranked(refresh, ranked_bundle, user, expected)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (RANKED, replace(RANKED, candidates=None), "was begun with --rank"),
        (replace(RANKED, candidates=None), RANKED, "was begun without --rank"),
        (RANKED, replace(RANKED, candidates=11), "has candidates 12, not 11"),
        (RANKED, replace(RANKED, rank_weight=0.5), "has rank_weight 1.0, not 0.5"),
    ],
)
def test_what_was_begun_otherwise_is_not_resumed(refresh, decoder, ranked_bundle, users, before, now, said):
    with pytest.raises(KeyboardInterrupt):
        refresh(users, bundle=ranked_bundle, decoder=DiesAt(decoder, 1), config=before)
    with pytest.raises(TesseraError, match=said):
        refresh(users, bundle=ranked_bundle, config=now, resume=True)


def test_a_ledger_from_before_there_were_rankers_is_one_without(redis, refresh, decoder, bundle, users):
    with pytest.raises(KeyboardInterrupt):
        refresh(users, decoder=DiesAt(decoder, 2))
    ledger = KEYS.refresh_ledger(bundle.version)
    plan = orjson.loads(redis.hget(ledger, "plan"))
    del plan["candidates"], plan["rank_weight"]
    redis.hset(ledger, "plan", orjson.dumps(plan))
    unfinished = Ledger(redis, KEYS, bundle.version).read()
    assert (unfinished.plan.candidates, unfinished.plan.rank_weight) == (None, 1.0)
    assert refresh(users, resume=True).users == 70


@pytest.mark.parametrize("candidates", [4, 13])
def test_candidates_lie_between_the_list_and_the_beam(candidates):
    with pytest.raises(TesseraError, match=r"between k, 5, and the beam width 12"):
        RefreshConfig(k=5, beam_width=12, candidates=candidates)


def test_a_ranker_that_cannot_be_loaded_takes_nobodys_list(redis, refresh, ranked_bundle, users, expected):
    weights = ranked_bundle.ranker_path / "modules.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(whole[:100])
    try:
        with pytest.raises(BundleCorrupt, match="ranker"):
            refresh(users, bundle=ranked_bundle, config=RANKED)
    finally:
        weights.write_bytes(whole)
    assert cached_users(redis, KEYS, ranked_bundle.entry_layout) == set()


def test_a_worker_of_ray_ranks_its_shards(redis, refresh, ranked_bundle, bundle, users, expected):
    job = WorkerJob(
        store=ranked_bundle.path.parent,
        version=ranked_bundle.version,
        redis_url=SecretStr(f"unix://{redis.connection_pool.connection_kwargs['path']}"),
        namespace=KEYS.namespace,
        config=RANKED,
        partial=True,
        open_decoder=torch_decoder,
    )
    shard = table_of([Shard(0, range(4), users[:20])])
    assert done_of(ShardWorker(job, 1)(shard)) == ShardDone(20, 0)
    for user in users[:20]:
        assert_ranked(refresh, ranked_bundle, user, expected)
    with pytest.raises(TesseraError, match=f"{bundle.version} has no ranker"):
        done_of(ShardWorker(replace(job, version=bundle.version), 1)(shard))


class Closing:
    """The real decoder, which notes that it was closed."""

    def __init__(self, decoder):
        self._decoder, self.name, self.closed = decoder, decoder.name, False

    def decode(self, requests):
        return self._decoder.decode(requests)

    def close(self):
        self.closed = True


def test_the_loop_ranks_too_and_stays_with_a_version_that_can(redis, refresh, ranked_bundle, bundle, users, expected):
    opened = []

    def open_decoder(one):
        opened.append(Closing(TorchDecoder.from_bundle(one, device="cpu")))
        return opened[-1]

    redis.set(KEYS.active, ranked_bundle.version)
    version = FollowedVersion(redis, KEYS, ModelStore(bundle.path.parent), open_decoder, RANKED)
    version.start()
    assert version.open.refresh.refresh(users[:9]) == 9
    for user in users[:9]:
        assert_ranked(refresh, ranked_bundle, user, expected)
    redis.set(KEYS.active, bundle.version)
    with pytest.raises(TesseraError, match=f"{bundle.version} has no ranker"):
        version.follow()
    assert version.open.bundle.version == ranked_bundle.version
    assert [one.closed for one in opened] == [False], "no other model was loaded"
    version.close()


@pytest.fixture
def run(redis, bundle, monkeypatch, tmp_path):
    address = f"unix://{redis.connection_pool.connection_kwargs['path']}"
    for name, value in {
        "HOME": tmp_path,
        "STORE": bundle.path.parent,
        "NAMESPACE": KEYS.namespace,
        "REDIS_URL": address,
    }.items():
        monkeypatch.setenv(f"TESSERA_{name}", str(value))
    return lambda *words: CliRunner().invoke(tessera.app, ["refresh", "--engine", "torch", *words])


@pytest.mark.parametrize("words", [[], ["--stale"], ["--watch"], ["--users", "FILE"], ["--resume"]], ids=" ".join)
def test_a_version_without_a_ranker_is_a_clear_error(redis, run, bundle, users, tmp_path, words):
    (tmp_path / "ids").write_text(users[0] + "\n")
    named = [] if words == ["--watch"] else ["--version", bundle.version]
    done = run("--rank", *named, *(str(tmp_path / "ids") if word == "FILE" else word for word in words))
    assert done.exit_code == 1
    assert f"version {bundle.version} has no ranker" in done.stderr
    assert "tessera rank train" in done.stderr
    assert cached_users(redis, KEYS, bundle.entry_layout) == set()


@pytest.mark.parametrize("option", [["--candidates", "30"], ["--rank-weight", "0"]])
def test_options_of_a_ranker_are_for_rank_alone(run, option):
    done = run(*option)
    assert (done.exit_code, f"{option[0]}: only with --rank" in done.stderr) == (1, True)


def test_too_few_candidates_are_a_clear_error(run, ranked_bundle):
    done = run("--rank", "--version", ranked_bundle.version, "--k", "20", "--candidates", "19")
    assert (done.exit_code, "candidates must be between k, 20" in done.stderr) == (1, True)


@pytest.mark.parametrize("words", [["--stale"], ["--users", "FILE"], ["--shadow"]], ids=" ".join)
def test_the_commands_rank(run, refresh, ranked_bundle, users, expected, tmp_path, words):
    (tmp_path / "ids").write_text("\n".join(users))
    words = [str(tmp_path / "ids") if word == "FILE" else word for word in words]
    settings = ["--version", ranked_bundle.version, "--k", "5", "--beam", "10", "--rank", "--candidates", "12"]
    done = run(*words, *settings, "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["users"], summary["k"], summary["candidates"]) == (70, 5, 12)
    for user in users:
        assert_ranked(refresh, ranked_bundle, user, expected)
    assert "top 5 of 12 ranked" in run("--users", str(tmp_path / "ids"), *settings).stdout


def test_fifty_candidates_are_ranked_unless_told_otherwise(run, ranked_bundle, users):
    done = run("--shadow", "--rank", "--version", ranked_bundle.version, "--json")
    assert json.loads(done.stdout)["candidates"] == 50


def test_entries_say_whether_they_were_ranked_and_cache_stats_how_many(redis, refresh, ranked_bundle, decoder, users):
    refresh(users, bundle=ranked_bundle, config=RANKED)
    by_user = UserRefresh(redis, KEYS, ranked_bundle, decoder, CONFIG)
    assert by_user.refresh(users[:1]) == 1
    assert [refresh.entry(user).generator for user in users[:2]] == ["torch", "torch+ranker"]
    (cache,) = registered_caches(redis, KEYS, ModelStore(ranked_bundle.path.parent))
    assert cache_stats(redis, KEYS, cache).sample.ranked == pytest.approx(69 / 70, abs=1e-4)
