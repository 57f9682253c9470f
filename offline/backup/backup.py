"""Write everything that Redis holds of a namespace, and the published versions that belong to it, into one file."""

import gzip
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from model_store.bundle import ModelStore
from model_store.cache_keys import Keys
from model_store.errors import TesseraError
from model_store.manifest import MANIFEST_NAME
from offline.backup.archive import MANIFEST, ArchiveWriter, BackupManifest, StoreContents, writing
from offline.backup.record_lines import to_line
from offline.backup.redis_values import Record, read_records
from offline.refresh.registered_caches import registered_caches, served_version

_KEYS_AT_ONCE = 500
_SCAN_BATCH = 1000
_PART_BYTES = 64 << 20
"""Of records, before compression."""


@dataclass(frozen=True)
class Backup:
    """What `tessera backup` wrote.

    Attributes:
        keys: how many of each type.
        versions: published versions in it.
        bytes: of the file.
    """

    file: str
    keys: dict[str, int]
    versions: tuple[str, ...]
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """The object that `tessera backup --json` prints."""
        return asdict(self)


def back_up(redis: Any, keys: Keys, path: Path, store: ModelStore | None = None) -> Backup:
    """Write a backup; the service may go on meanwhile, and each key is then as it was at some moment.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names; all of their namespace is written, what only running processes need left out.
        path: of the file, replaced as a whole.
        store: to write the served version too, and those with cached lists.

    Raises:
        TesseraError: the file cannot be written, a version is not sound, or a restore was not finished.
        RedisError: Redis fails. There is no new file then.
    """
    if redis.exists(keys.restore):
        raise TesseraError(f"the restore into {keys.namespace!r} was not finished; run it again first")
    versions = () if store is None else _versions(redis, keys, store)
    counts: Counter[str] = Counter()
    with writing(path) as archive:
        records = _write_records(archive, _records(redis, keys), counts)
        for version in versions:
            _write_version(archive, cast(ModelStore, store), version)
        manifest = BackupManifest(
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            namespace=keys.namespace,
            keys=dict(sorted(counts.items())),
            records=records,
            store=None if store is None else StoreContents(active=store.active(), versions=versions),
            files=archive.files,
        )
        text = manifest.model_dump_json(indent=2).encode()
        archive.add(MANIFEST, BytesIO(text), len(text))
    return Backup(str(path), manifest.keys, versions, path.stat().st_size)


def _records(redis: Any, keys: Keys) -> Iterator[Record]:
    prefix = f"{keys.namespace}:".encode()
    # What only a running process needs: after a restore it would keep others from their work until it expires.
    passing = {keys.watch, keys.refresh_worker, keys.items_compacting, keys.items_publishing, keys.restore}
    # Changes go on meanwhile. Read in this order and soon after one another, the snapshot is not older than the
    # position, and the log still has what came behind that: whoever reads on from there leaves nothing out.
    changes = (keys.items_upto, keys.items_log, keys.items)
    for name in changes:
        yield from read_records(redis, prefix, [name.encode()])
    apart = {name.encode() for name in passing.union(changes)}
    names = (name for name in redis.scan_iter(match=keys.everything(), count=_SCAN_BATCH) if name not in apart)
    while some := list(islice(names, _KEYS_AT_ONCE)):
        # A scan may give a key twice.
        yield from read_records(redis, prefix, list(dict.fromkeys(some)))


def _write_records(archive: ArchiveWriter, records: Iterator[Record], counts: Counter[str]) -> int:
    """Write records in parts; how many there were."""
    written = number = 0
    ended = False
    while not ended:
        with tempfile.TemporaryFile() as part:
            lines, ended = _fill(part, records, counts)
            if lines:
                size = part.tell()
                part.seek(0)
                archive.add(f"redis/{number:05}.jsonl.gz", part, size)
                number += 1
            written += lines
    return written


def _fill(part: IO[bytes], records: Iterator[Record], counts: Counter[str]) -> tuple[int, bool]:
    lines = size = 0
    # Without a name and a time in its header, the same records are the same bytes.
    with gzip.GzipFile("", "wb", 6, part, 0) as packed:
        for record in records:
            line = to_line(record)
            packed.write(line)
            lines, size = lines + 1, size + len(line)
            counts[record.kind] += not record.continued
            if size >= _PART_BYTES:
                return lines, False
    return lines, True


def _versions(redis: Any, keys: Keys, store: ModelStore) -> tuple[str, ...]:
    """Published versions that are served or have cached lists, oldest first."""
    wanted = {served_version(redis, keys, store), store.active()}
    for cache in registered_caches(redis, keys, store):
        wanted |= set(cache.versions)
    return tuple(version for version in store.versions() if version in wanted)


def _write_version(archive: ArchiveWriter, store: ModelStore, version: str) -> None:
    bundle = store.open(version)
    for name in (MANIFEST_NAME, *bundle.manifest.files):
        path = bundle.path / name
        with path.open("rb") as file:
            archive.add(f"store/{version}/{name}", file, path.stat().st_size)
