"""A real Redis, a small shop, and a version that knows it."""

import pytest

from app.embedded_redis import ensure_running, stop
from model_store.cache_entries import CacheEntry
from model_store.cache_keys import Keys
from model_store.decoders.torch_decoder import TorchDecoder
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.redis_connection import connect
from offline.refresh.config import RefreshConfig
from offline.refresh.histories import import_histories
from offline.refresh.job import on_this_machine, run_refresh
from offline.refresh.ledger import Ledger, Plan
from offline.refresh.shard_refresh import ShardRefresh
from offline.refresh.user_plan import user_plan
from offline.refresh.user_refresh import UserRefresh
from tests.cached_entries import packed_entry
from tests.ranked_bundle import publish_with_ranker
from tests.tiny_bundle import build_tiny_bundle

KEYS = Keys("test")
CONFIG = RefreshConfig(k=5, beam_width=10, shard_users=20)
RANKED = RefreshConfig(k=5, beam_width=12, shard_users=20, candidates=12)


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    yield connect(ensure_running(home))
    stop(home)


@pytest.fixture(autouse=True)
def empty_redis(redis):
    redis.flushall()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=70, items=40, seed=0)
    return read_dataset(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, dataset):
    return build_tiny_bundle(tmp_path_factory.mktemp("store"), catalog=dataset.catalog)


@pytest.fixture(scope="module")
def ranked_bundle(bundle):
    """The same version with a ranker beside it; the other one stays active."""
    return publish_with_ranker(bundle.path.parent, bundle)


@pytest.fixture(scope="module")
def decoder(bundle):
    return TorchDecoder.from_bundle(bundle, device="cpu")


class DiesAt:
    """The real decoder, until a given batch, where the process ends."""

    def __init__(self, decoder, batch):
        self._decoder, self.left, self.name = decoder, batch, decoder.name

    def decode(self, requests):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self._decoder.decode(requests)


class Refreshing:
    """Refreshes as the command does."""

    def __init__(self, redis, bundle, decoder):
        self.redis, self.bundle, self.decoder = redis, bundle, decoder

    def __call__(self, users, *, bundle=None, decoder=None, config=CONFIG, resume=False, partial=False):
        bundle, decoder = bundle or self.bundle, decoder or self.decoder
        ledger = Ledger(self.redis, KEYS, bundle.version, partial=partial)
        by_user = UserRefresh(self.redis, KEYS, bundle, decoder, config)
        with user_plan(users, bundle.entry_layout) as listed:
            run = on_this_machine(ShardRefresh(by_user, ledger, forget_departed=not partial))
            plan = Plan.of(bundle, config, listed.buckets_per_shard(config.shard_users))
            return run_refresh(bundle.version, listed, run, ledger, plan, resume=resume)

    def packed(self, user, bundle=None):
        return packed_entry(self.redis, KEYS, (bundle or self.bundle).entry_layout, user)

    def entry(self, user, bundle=None):
        return CacheEntry.unpack(self.packed(user, bundle))


def record_event(redis, user, item, at=1.0, keys=KEYS):
    """As the API does."""
    redis.rpush(keys.history(user), item)
    redis.zadd(keys.dirty, {user: at}, nx=True)


@pytest.fixture
def refresh(redis, bundle, decoder):
    return Refreshing(redis, bundle, decoder)


@pytest.fixture
def users(redis, dataset):
    """Everyone of the shop, their histories in Redis."""
    import_histories(redis, KEYS, dataset, CONFIG)
    return list(dataset.user_ids)
