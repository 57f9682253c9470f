"""The manifest of a bundle: what it holds, how it was made, and the digest of every file."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.errors import BundleCorrupt, BundleNotFound, UnsupportedBundleFormat

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
_CHUNK_BYTES = 1 << 20


class FileRecord(BaseModel):
    """Size and digest of one file of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int


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
    score: Literal["children", "vocabulary"] = Field(
        default="children",
        description="what a level's log-softmax runs over: the node's children in the trie, or the whole vocabulary",
    )
    config: dict[str, Any] = Field(description="every setting of the run")
    metrics: dict[str, Any]
    versions: dict[str, str] = Field(description="python and library versions of the run")
    files: dict[str, FileRecord]

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
        # The format comes first: a newer one may have any other shape, and deserves its own message.
        try:
            content = json.loads(text)
            found = content["format_version"]
        except (ValueError, TypeError, KeyError):
            raise BundleCorrupt(f"{path}: not a manifest ({len(text)} characters of something else)") from None
        if found != FORMAT_VERSION:
            raise UnsupportedBundleFormat(
                f"{path}: bundle format {found}, this Tessera reads {FORMAT_VERSION}; "
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


def describe_files(folder: Path) -> dict[str, FileRecord]:
    """Record every file below `folder`, the manifest itself left out; names are relative, with forward slashes."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(sha256=sha256_of(path), size=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    }
