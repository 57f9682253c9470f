"""Bring a backup back: everything is checked before anything is written, and what was interrupted is done again."""

import gzip
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from model_store.bundle import Bundle, ModelStore
from model_store.cache_keys import Keys
from model_store.errors import TesseraError
from model_store.manifest import MANIFEST_NAME, Manifest
from offline.backup.archive import Archive, opened
from offline.backup.record_lines import from_line
from offline.backup.redis_values import Record, write_record

_SCAN_BATCH = 1000
_KEYS_AT_ONCE = 1000
_ELEMENTS_AT_ONCE = 10_000
_MAX_LINE_BYTES = 256 << 20
_MARKER_TTL_S = 7 * 86_400


@dataclass(frozen=True)
class Restored:
    """What `tessera restore` did.

    Attributes:
        namespace: that was written.
        created_at: when the backup was made; UTC, ISO 8601.
        resumed: whether an earlier restore of the same backup had not finished.
        replaced: keys that were there before and are gone.
        keys: written, how many of each type.
        versions: published.
        versions_there: that the store had already.
    """

    namespace: str
    created_at: str
    resumed: bool
    replaced: int
    keys: dict[str, int]
    versions: tuple[str, ...]
    versions_there: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The object that `tessera restore --json` prints."""
        return asdict(self)


def restore(redis: Any, keys: Keys, path: Path, store: ModelStore, *, force: bool = False) -> Restored:
    """Make the namespace what it was when the backup was made, and publish the versions that are in the backup.

    Keys get what was left of their lifetime when the backup was made. Killed half-way, it is done by doing it again;
    `{namespace}:restore` tells until then that the namespace is not whole.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names; the namespace may be another than that of the backup.
        path: of the backup.
        store: for the versions of the backup.
        force: even if the namespace has keys; they are deleted.

    Raises:
        ArchiveUnusable: the file is no whole backup; nothing was written.
        TesseraError: the namespace has keys, or the store has another version of the same name; nothing was written.
        RedisError: Redis fails.
    """
    with opened(path) as archive:
        _check_records(archive)
        stored = archive.manifest.store
        versions = stored.versions if stored else ()
        there = tuple(version for version in versions if _is_there(archive, store, version))
        before = redis.get(keys.restore)
        resumed = before is not None and before.decode() == archive.digest
        if not resumed and not force and _has_keys(redis, keys):
            unfinished = "an unfinished restore of another backup" if before else "keys"
            raise TesseraError(
                f"the namespace {keys.namespace!r} has {unfinished}; --force deletes them and restores {path}"
            )
        missing = tuple(version for version in versions if version not in there)
        for version in missing:
            _publish(archive, store, version)
        if stored and stored.active in versions and store.active() is None:
            store.activate(stored.active)
        redis.set(keys.restore, archive.digest, ex=_MARKER_TTL_S)
        replaced = _clear(redis, keys)
        prefix = f"{keys.namespace}:".encode()
        for name in archive.parts():
            _write(redis, prefix, _records(archive, name))
        redis.delete(keys.restore)
        manifest = archive.manifest
        return Restored(
            keys.namespace,
            manifest.created_at,
            resumed,
            replaced,
            manifest.keys,
            versions=missing,
            versions_there=there,
        )


def _check_records(archive: Archive) -> None:
    count = 0
    before: bytes | None = None
    for name in archive.parts():
        for record in _records(archive, name):
            if record.continued and record.key != before:
                raise archive.broken(f"{name}: a record continues a key that none began")
            before = record.key
            count += 1
    if count != archive.manifest.records:
        raise archive.broken(f"holds {count} records where its manifest says {archive.manifest.records}")


def _records(archive: Archive, name: str) -> Iterator[Record]:
    number = 0
    try:
        with archive.open(name) as packed, gzip.GzipFile(fileobj=packed) as lines:
            while line := lines.readline(_MAX_LINE_BYTES):
                number += 1
                yield from_line(line)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        what = "not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
        raise archive.broken(f"{name}, line {number}: {what}") from None


def _has_keys(redis: Any, keys: Keys) -> bool:
    return next(iter(redis.scan_iter(match=keys.everything(), count=_SCAN_BATCH)), None) is not None


def _clear(redis: Any, keys: Keys) -> int:
    """Delete the keys of the namespace but the mark of this restore; how many went."""
    gone = 0
    names = iter(redis.scan_iter(match=keys.everything(), count=_SCAN_BATCH))
    while some := list(islice(names, _KEYS_AT_ONCE)):
        pipeline = redis.pipeline(transaction=False)
        for name in some:
            if name != keys.restore.encode():
                pipeline.unlink(name)
        gone += sum(pipeline.execute())
    return gone


def _write(redis: Any, prefix: bytes, records: Iterator[Record]) -> None:
    pipeline, waiting = redis.pipeline(transaction=False), 0
    for record in records:
        write_record(pipeline, prefix, record)
        waiting += len(record.elements)
        if waiting >= _ELEMENTS_AT_ONCE:
            pipeline.execute()
            pipeline, waiting = redis.pipeline(transaction=False), 0
    pipeline.execute()


def _is_there(archive: Archive, store: ModelStore, version: str) -> bool:
    """Whether the store has this very version.

    Raises:
        TesseraError: it has another one of the same name, or the archive's is not whole.
    """
    files = archive.files_of(version)
    if MANIFEST_NAME not in files:
        raise archive.broken(f"version {version} has no {MANIFEST_NAME}")
    with archive.open(files[MANIFEST_NAME]) as stream:
        text = stream.read()
    try:
        manifest = Manifest.model_validate_json(text)
    except ValueError:
        raise archive.broken(f"the {MANIFEST_NAME} of version {version} cannot be read") from None
    listed = {MANIFEST_NAME: None} | dict(manifest.files)
    if manifest.version != version or listed.keys() != files.keys():
        raise archive.broken(f"the files of version {version} are not those of its {MANIFEST_NAME}")
    for name, record in manifest.files.items():
        if archive.manifest.files[files[name]] != record:
            raise archive.broken(f"{files[name]!r} is not what the {MANIFEST_NAME} of its version says")
    there = store.root / version / MANIFEST_NAME
    if not there.parent.exists():
        return False
    if not there.is_file() or there.read_bytes() != text:
        raise TesseraError(f"{there.parent}: is there already, and not what the backup has; move it away")
    return True


def _publish(archive: Archive, store: ModelStore, version: str) -> None:
    """Write a version beside its place, check it, and rename it."""
    staging = store.root / f".restoring-{version}-{os.getpid()}"
    try:
        for name, member in archive.files_of(version).items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, path.open("xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
        Bundle(staging, Manifest.read(staging)).verify()
        staging.rename(store.root / version)
    except OSError as error:
        raise TesseraError(f"{store.root / version}: could not be restored: {error.strerror}; try again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
