"""A refresh on a Ray cluster of this machine, in the process of a test or as one that a test can kill.

python -m tests.offline.refresh.ray_refresh STORE VERSION REDIS_URL < users
"""

import os
import signal
import sys
import time
from pathlib import Path

from pydantic import SecretStr

from model_store.bundle import ModelStore
from model_store.decoders.torch_decoder import TorchDecoder
from offline.redis_connection import connect
from offline.refresh.config import RefreshConfig
from offline.refresh.job import run_refresh
from offline.refresh.ledger import Ledger, Plan
from offline.refresh.on_ray import on_ray
from offline.refresh.ray_cluster import LOCAL, ray_workers
from offline.refresh.ray_worker import WorkerJob
from offline.refresh.user_plan import user_plan
from tests.offline.refresh.conftest import KEYS

CONFIG = RefreshConfig(k=5, beam_width=10, shard_users=4)


def torch_decoder(bundle):
    return TorchDecoder.from_bundle(bundle, device="cpu")


class Slow:
    """The real decoder, with time to be killed in."""

    def __init__(self, decoder):
        self._decoder, self.name = decoder, decoder.name

    def decode(self, requests):
        time.sleep(0.2)
        return self._decoder.decode(requests)


class KilledOnce:
    """The real decoder, whose process is killed in its third batch, unless that has happened before."""

    def __init__(self, decoder, happened):
        self._decoder, self._happened, self._left, self.name = decoder, happened, 2, decoder.name

    def decode(self, requests):
        self._left -= 1
        if self._left < 0 and not self._happened.exists():
            self._happened.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return self._decoder.decode(requests)


def slow_decoder(bundle):
    return Slow(torch_decoder(bundle))


def decoder_killed_once(bundle, *, happened):
    return KilledOnce(torch_decoder(bundle), happened)


def refresh_on_ray(workers, bundle, url, users, *, open_decoder=torch_decoder, resume=False, config=CONFIG):
    """Refresh as the command does."""
    ledger = Ledger(connect(url), KEYS, bundle.version)
    job = WorkerJob(
        store=bundle.path.parent,
        version=bundle.version,
        redis_url=SecretStr(url),
        namespace=KEYS.namespace,
        config=config,
        partial=False,
        open_decoder=open_decoder,
    )
    with user_plan(users, bundle.entry_layout) as listed:
        plan = Plan.of(bundle, config, listed.buckets_per_shard(config.shard_users))
        run = on_ray(job, workers, plan.shards)
        return run_refresh(bundle.version, listed, run, ledger, plan, resume=resume)


if __name__ == "__main__":
    store, version, url = sys.argv[1:]
    with ray_workers(LOCAL, count=1) as workers:
        users = sys.stdin.read().split()
        refresh_on_ray(workers, ModelStore(Path(store)).open(version), url, users, open_decoder=slow_decoder)
