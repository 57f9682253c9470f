"""The manifest of a bundle: what it holds, how it was made, and the digest of every file."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model_store.cache_keys import DEFAULT_BUCKETS, EntryLayout
from model_store.errors import BundleCorrupt, BundleNotFound, UnsupportedBundleFormat

FORMAT_VERSION = 5
FORMATS_READ = (1, 2, 3, 4, 5)
"""Format 2 is format 1 with `extends` and `cache_version`; in format 3 the language model may have an adapter, which a
reader of format 2 would leave out without a word; format 4 says over how many buckets cache entries are spread; in
format 5 there may be a ranker."""
MANIFEST_NAME = "manifest.json"
LANGUAGE_MODEL_FOLDER = "llm/"
ADAPTER_FOLDER = f"{LANGUAGE_MODEL_FOLDER}adapter/"
ADAPTER_WEIGHTS = f"{ADAPTER_FOLDER}adapter_model.safetensors"
RANKER_FOLDER = "ranker/"
_CHUNK_BYTES = 1 << 20


class FileRecord(BaseModel):
    """Size and digest of one file of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int


class RankerRecord(BaseModel):
    """What is known of a bundle's ranker beside its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field(description="the recipe it was trained by; answers name it")
    kind: str = Field(description="what loads it: see model_store.rankers.ranker_files")
    language_model: str = Field(description="what its language model was made from")
    config: dict[str, Any] = Field(description="every setting of its training")
    metrics: dict[str, Any]


class Manifest(BaseModel):
    """Everything about a bundle that is not an array."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    version: str
    created_at: str = Field(description="UTC, ISO 8601")
    recipe: str
    seed: int
    dataset: str
    data_fingerprint: str = Field(description="sha256 over the names and bytes of the input files")
    items: int
    code_levels: int
    codebook_size: int
    prompt_version: int
    max_history: int = Field(description="items of a history that the model reads")
    tasks: tuple[str, ...] = Field(
        default=(), description="task families the language model was trained on beside the sequential one"
    )
    score: Literal["children", "vocabulary"] = Field(
        default="children",
        description="what a level's log-softmax runs over: the node's children in the trie, or the whole vocabulary",
    )
    collaborative_weight: float = Field(
        default=0.0, ge=0, lt=1, description="the collaborative encoder's share of an item's score"
    )
    config: dict[str, Any] = Field(description="every setting of the run")
    metrics: dict[str, Any]
    versions: dict[str, str] = Field(description="python and library versions of the run")
    files: dict[str, FileRecord]
    extends: str | None = Field(
        default=None, description="the version this one adds items to; None for one that was trained"
    )
    cache_version: str = Field(
        default="", description="the version in the names of cache entries; an extension's is that of its base"
    )

    cache_buckets: int = Field(
        default=DEFAULT_BUCKETS, ge=1, description="hashes in Redis that the cache entries are spread over"
    )

    ranker: RankerRecord | None = Field(default=None, description="what scores given items, where there is a ranker/")

    @model_validator(mode="after")
    def _name_the_cache_version(self) -> "Manifest":
        if not self.cache_version:
            object.__setattr__(self, "cache_version", self.version)
        return self

    @property
    def entry_layout(self) -> EntryLayout:
        """Where the cache entries are."""
        return EntryLayout(self.cache_version, self.cache_buckets)

    @property
    def takes_queries(self) -> bool:
        """Whether the language model was trained to read queries."""
        return any("query" in task for task in self.tasks)

    @property
    def ranker_files(self) -> dict[str, FileRecord]:
        """Those of the ranker; versions with the same ones rank alike."""
        return {name: record for name, record in self.files.items() if name.startswith(RANKER_FOLDER)}

    def same_language_model(self, other: "Manifest") -> bool:
        """Whether one loaded language model serves both versions: the same files, read in the same way."""
        same_adapter = self.files.get(ADAPTER_WEIGHTS) == other.files.get(ADAPTER_WEIGHTS)
        return same_adapter and self.same_base_model(other)

    def same_base_model(self, other: "Manifest") -> bool:
        """Whether one engine that is given the adapter with each request serves both versions.

        Either has an adapter of the same configuration beside the same base weights, or neither has one: an adapter of
        another rank would not fit, and vLLM's CPU backend computes what has none with another one's adapter.
        """
        return self._base_model == other._base_model

    @property
    def _base_model(self) -> tuple[object, ...]:
        files = {name: record for name, record in self.files.items() if name.startswith(LANGUAGE_MODEL_FOLDER)}
        has_adapter = files.pop(ADAPTER_WEIGHTS, None) is not None
        return (
            files,
            has_adapter,
            self.score,
            self.prompt_version,
            self.max_history,
            self.code_levels,
            self.codebook_size,
        )

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read `folder/manifest.json`.

        Raises:
            BundleNotFound: there is no manifest, so there is no bundle.
            UnsupportedBundleFormat: written by a newer Tessera, or in a format no longer read.
            BundleCorrupt: not a manifest.
        """
        path = folder / MANIFEST_NAME
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BundleNotFound(f"{path}: no such file; `tessera models list` shows the published versions") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BundleCorrupt(f"{path}: cannot be read ({error})") from error
        # The format comes first: a newer one may have any other shape, and deserves its own message.
        try:
            content = json.loads(text)
            found = content["format_version"]
        except (ValueError, TypeError, KeyError):
            raise BundleCorrupt(f"{path}: not a manifest ({len(text)} characters of something else)") from None
        if found not in FORMATS_READ:
            raise UnsupportedBundleFormat(
                f"{path}: bundle format {found}, this Tessera reads {', '.join(map(str, FORMATS_READ))}; "
                "publish again with this version, or serve it with the one that wrote it"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise BundleCorrupt(f"{path}: {where}: {first['msg']}") from None


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def describe_files(folder: Path, known: Mapping[str, FileRecord] = MappingProxyType({})) -> dict[str, FileRecord]:
    """Record every file below `folder`, the manifest itself left out; names are relative, with forward slashes.

    Files with a record in `known` are not read; theirs is taken as it is.
    """
    names = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    ]
    return {
        name: known.get(name) or FileRecord(sha256=sha256_of(folder / name), size=(folder / name).stat().st_size)
        for name in names
    }
