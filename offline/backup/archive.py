"""The archive of a backup: a plain tar file.

    redis/00000.jsonl.gz ...     records (`record_lines`)
    store/<version>/<file> ...   published versions, where they were asked for
    manifest.json                last: format, counts, size and sha256 of every other member

Only regular files by exactly these names. One that lacks its manifest was cut short.
"""

import hashlib
import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.errors import TesseraError
from model_store.manifest import FileRecord
from offline.whole_file import whole_file

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20
_PART = re.compile(r"redis/\d{5,}\.jsonl\.gz")
_STORED = re.compile(r"store/([A-Za-z0-9][A-Za-z0-9._+-]{0,63})/([^\x00-\x1f\\]+)")


class ArchiveUnusable(TesseraError):
    """The file is no backup that can be restored; nothing was written."""


class StoreContents(BaseModel):
    """The published versions of a backup; `active` is the one the store names."""

    model_config = ConfigDict(frozen=True)

    active: str | None
    versions: tuple[str, ...]


class BackupManifest(BaseModel):
    """What a backup holds."""

    model_config = ConfigDict(frozen=True)

    format: Literal["tessera-backup"] = "tessera-backup"
    format_version: int = FORMAT_VERSION
    created_at: str = Field(description="UTC, ISO 8601")
    namespace: str
    keys: dict[str, int] = Field(description="how many of each type")
    records: int
    store: StoreContents | None = None
    files: dict[str, FileRecord]


class ArchiveWriter:
    """Adds members, and notes their digests."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.files: dict[str, FileRecord] = {}

    def add(self, name: str, source: IO[bytes], size: int) -> None:
        """Add `size` bytes of a stream as a member.

        Raises:
            TesseraError: the stream has fewer.
        """
        counted = _Digesting(source)
        member = tarfile.TarInfo(name)
        member.size = size
        member.mode = 0o600
        try:
            self._tar.addfile(member, counted)
        except OSError as error:
            raise TesseraError(f"{name} cannot be put into the archive: {error}") from error
        self.files[name] = FileRecord(sha256=counted.digest.hexdigest(), size=size)


class _Digesting:
    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data


@contextmanager
def writing(path: Path) -> Iterator[ArchiveWriter]:
    """Write an archive, for its owner alone; it has its name when it is whole.

    Raises:
        TesseraError: the file cannot be written; what was there stays.
    """
    with whole_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        yield ArchiveWriter(tar)


class Archive:
    """A checked archive.

    Attributes:
        manifest: what it holds.
        digest: sha256 of its manifest, hex: tells it from every other.
    """

    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self._path, self._tar = path, tar
        self._members = self._checked_members()
        self.manifest, self.digest = self._read_manifest()
        self._check_files()

    def parts(self) -> list[str]:
        """Names of the members that hold records, in order."""
        return sorted(name for name in self._members if _PART.fullmatch(name))

    def files_of(self, version: str) -> dict[str, str]:
        """Members of a published version by their names within it."""
        found = {name: match for name in self._members if (match := _STORED.fullmatch(name))}
        return {match[2]: name for name, match in found.items() if match[1] == version}

    def open(self, name: str) -> IO[bytes]:
        """The bytes of a member."""
        stream = self._tar.extractfile(self._members[name])
        assert stream is not None
        return stream

    def broken(self, what: str) -> ArchiveUnusable:
        """An error that names the archive."""
        return ArchiveUnusable(f"{self._path}: {what}; nothing was restored")

    def _checked_members(self) -> dict[str, tarfile.TarInfo]:
        members: dict[str, tarfile.TarInfo] = {}
        for member in self._tar:
            name = member.name
            if not member.isreg() or member.issparse() or not _is_ours(name):
                raise self.broken(f"holds {name!r}, which no backup does")
            if name in members:
                raise self.broken(f"holds {name!r} twice")
            members[name] = member
        return members

    def _read_manifest(self) -> tuple[BackupManifest, str]:
        member = self._members.get(MANIFEST)
        if member is None:
            raise self.broken(f"has no {MANIFEST}: it is no backup, or was cut short")
        if member.size > _MAX_MANIFEST_BYTES:
            raise self.broken(f"{MANIFEST} is too large to be one")
        text = self.open(MANIFEST).read()
        try:
            version = _Versioned.model_validate_json(text).format_version
            if version > FORMAT_VERSION:
                raise self.broken(f"is of format {version}; this Tessera reads {FORMAT_VERSION}, a newer one may more")
            return BackupManifest.model_validate_json(text), hashlib.sha256(text).hexdigest()
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise self.broken(f"{MANIFEST} cannot be read: {where}: {first['msg']}") from None

    def _check_files(self) -> None:
        listed, there = set(self.manifest.files), set(self._members) - {MANIFEST}
        if listed != there:
            odd = sorted(listed ^ there)[0]
            raise self.broken(f"{odd!r} is {'missing' if odd in listed else 'not in its manifest'}")
        versions = set(self.manifest.store.versions) if self.manifest.store else set()
        for name, record in self.manifest.files.items():
            if (stored := _STORED.fullmatch(name)) and stored[1] not in versions:
                raise self.broken(f"{name!r} is of no version that its manifest names")
            digest = hashlib.sha256()
            with self.open(name) as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    digest.update(chunk)
            if self._members[name].size != record.size or digest.hexdigest() != record.sha256:
                raise self.broken(f"{name!r} is not what its manifest says (size or sha256 differs)")


class _Versioned(BaseModel):
    format: Literal["tessera-backup"]
    format_version: int = Field(ge=1)


def _is_ours(name: str) -> bool:
    if name == MANIFEST or _PART.fullmatch(name):
        return True
    stored = _STORED.fullmatch(name)
    # A path that normalises to itself has no empty part and no dot; two dots are looked for.
    return stored is not None and str(PurePosixPath(name)) == name and ".." not in PurePosixPath(name).parts


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open an archive and check all of it: names, digests, manifest.

    Raises:
        ArchiveUnusable: it is not whole, not a backup, or of a newer format.
    """
    try:
        with ExitStack() as stack:
            archive = Archive(path, stack.enter_context(tarfile.open(path, "r:")))
            keep_open = stack.pop_all()
    except (tarfile.TarError, EOFError) as error:
        raise ArchiveUnusable(f"{path}: not a sound tar file: {error}; nothing was restored") from error
    except OSError as error:
        raise ArchiveUnusable(f"{path}: cannot be read: {error.strerror or error}; nothing was restored") from error
    with keep_open:
        yield archive
