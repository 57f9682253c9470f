"""The refresh on a Ray cluster: shards are rows of a Ray dataset, workers the actors that map them.

Ray Data deals the blocks out, holds back when workers or this side do not keep up, starts a lost worker again and gives
its blocks to one that is alive. Doing a shard twice does no harm. What is done comes back row by row.
"""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from model_store.errors import TesseraError
from offline.refresh.job import ShardRuns
from offline.refresh.ledger import ShardDone
from offline.refresh.ray_cluster import Workers
from offline.refresh.ray_worker import ShardWorker, WorkerJob, done_of, shard_of, table_of
from offline.refresh.user_plan import Shard

_AT_ONCE = 2
"""Shards in a worker: one is decoded, the other read or written."""
_TRIES_AGAIN = 3
"""How often the shards that a worker died of are given to another."""
_BLOCKS_PER_WORKER = 100
_SHARDS_OF_BLOCK = 64
"""At most. A block costs this process some 45 KB and Ray some milliseconds, however little is in it."""


def shards_of_block(shards: int, workers: int) -> int:
    """How many shards go to a worker together: few enough that all workers end at about the same time."""
    return min(max(shards // (workers * _BLOCKS_PER_WORKER), 1), _SHARDS_OF_BLOCK)


def on_ray(job: WorkerJob, workers: Workers, shards: int) -> ShardRuns:
    """Refresh shards on the workers of a cluster, which `ray_workers` has connected to.

    Args:
        job: what each worker opens.
        workers: how many there are, and what each takes.
        shards: how many are to come, about.
    """

    def run(shards_left: Iterator[Shard]) -> Iterator[tuple[Shard, ShardDone]]:
        import ray.data

        together = shards_of_block(shards, workers.count)
        blocks: list[Any] = []
        while some := list(islice(shards_left, together)):
            # Put there one by one: this process never holds the whole list.
            blocks.append(ray.put(table_of(some)))
        if not blocks:
            return
        # Each row a block of its own: finished when it is, not when the others that came with it are.
        ray.data.DataContext.get_current().target_max_block_size = 1
        try:
            # More workers than blocks would start for nothing.
            enough = replace(workers, count=min(workers.count, len(blocks)))
            refreshed = _mapped(ray.data.from_arrow_refs(blocks), job, enough)
            for table in refreshed.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for number in range(len(table)):
                    row = table.slice(number, 1)
                    yield shard_of(row), done_of(row)
        except ray.exceptions.RayError as error:
            said = [line for line in str(error).splitlines() if line.strip()]
            raise TesseraError(
                f"refresh on Ray stopped, a worker failed: {said[-1].strip() if said else type(error).__name__}; "
                "what was written stays, `tessera refresh --resume` goes on behind it"
            ) from error

    return run


def _mapped(dataset: Any, job: WorkerJob, workers: Workers) -> Any:
    from ray.data import ActorPoolStrategy

    with warnings.catch_warnings():
        # The bound on tries has no named parameter yet; without it Ray would try for ever.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        return dataset.map_batches(
            ShardWorker,
            fn_constructor_args=(job, workers.cpus),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=workers.count,
                max_concurrent_calls_per_actor=_AT_ONCE,
                max_tasks_in_flight_per_actor=2 * _AT_ONCE,
                enable_true_multi_threading=True,
            ),
            num_cpus=workers.cpus,
            num_gpus=workers.gpus,
            udf_modifying_row_count=False,
            max_restarts=-1,
            max_task_retries=_TRIES_AGAIN,
        )
