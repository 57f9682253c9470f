"""Published model versions on disk: open, verify, publish, activate, roll back.

    <store>/<version>/manifest.json  and the files it lists
    <store>/ACTIVE                   the version being served
    <store>/PREVIOUS                 the one served before it, for rollback

A version is published by renaming a finished folder, so it is whole or absent. Adding items to a version publishes an
extension of it, `<version>+1`, `+2` and so on: a line of versions in which an item keeps its index and its code.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model_store.cache_keys import EntryLayout
from model_store.catalog import Catalog
from model_store.errors import BundleCorrupt, BundleNotFound
from model_store.item_codes import ItemCodes
from model_store.manifest import ADAPTER_FOLDER, ADAPTER_WEIGHTS, MANIFEST_NAME, Manifest, sha256_of
from model_store.prefix_trie import PrefixTrie

ACTIVE_NAME = "ACTIVE"
PREVIOUS_NAME = "PREVIOUS"
MODEL_FOLDERS = ("llm/", "encoder/", "teacher/", "quantizer/", "ranker/")
"""What only the decoder and the batch jobs read; the API opens a bundle without them."""

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True)
class Bundle:
    """One published version, opened. Arrays load on first use.

    A mapped file that is written over changes under its readers, and one that is cut short kills them (SIGBUS): what
    answers are made of is read into memory, and only `item_embeddings` is a map.
    """

    path: Path
    manifest: Manifest

    @property
    def version(self) -> str:
        """The version's name."""
        return self.manifest.version

    @property
    def cache_version(self) -> str:
        """The version that cache entries are named after; extensions of a version share its entries."""
        return self.manifest.cache_version

    @property
    def entry_layout(self) -> EntryLayout:
        """Where its cache entries are."""
        return self.manifest.entry_layout

    @cached_property
    def catalog(self) -> Catalog:
        """The items."""
        # Not `read_table`: where pandas is installed that imports it, which takes longer than the whole start.
        with pq.ParquetFile(self.path / "items.parquet") as file:
            return Catalog.from_table(file.read())

    @cached_property
    def item_codes(self) -> ItemCodes:
        """The code of every item."""
        codes = ItemCodes(np.array(self._array("item_codes.npy")))
        if len(codes) != self.manifest.items:
            raise BundleCorrupt(f"{self.path / 'item_codes.npy'}: {len(codes)} codes for {self.manifest.items} items")
        return codes

    @cached_property
    def trie(self) -> PrefixTrie:
        """The trie of the item codes."""
        return PrefixTrie.build(self.item_codes)

    @cached_property
    def popularity(self) -> NDArray[np.float32]:
        """Events per item in training; float32 [N]."""
        return np.array(self._array("popularity.npy"))

    @cached_property
    def item_embeddings(self) -> NDArray[np.float32]:
        """The joint item vectors the codes quantize, unit length; float32 [N, D], a memory map."""
        return self._array("item_embeddings.npy")

    @property
    def faiss_path(self) -> Path:
        """The nearest-neighbour index over `item_embeddings`, inner product."""
        return self.path / "items.faiss"

    @property
    def llm_path(self) -> Path:
        """The Hugging Face checkpoint and tokenizer; without what it has learned where that is in an adapter."""
        return self.path / "llm"

    @property
    def adapter_path(self) -> Path | None:
        """The folder of the LoRA adapter, as peft and vLLM read it; None where the checkpoint is the whole model.

        Raises:
            BundleCorrupt: the adapter's weights are in another format than safetensors; others may run code.
        """
        if ADAPTER_WEIGHTS in self.manifest.files:
            return self.path / ADAPTER_FOLDER
        if any(name.startswith(ADAPTER_FOLDER) for name in self.manifest.files):
            raise BundleCorrupt(f"{self.path / ADAPTER_WEIGHTS}: missing; adapters are read from safetensors only")
        return None

    @property
    def ranker_path(self) -> Path | None:
        """The ranker, as `model_store.rankers.ranker_files` reads it; None where there is none."""
        return None if self.manifest.ranker is None else self.path / "ranker"

    @property
    def encoder_path(self) -> Path:
        """The collaborative encoder: a row of every evaluation."""
        return self.path / "encoder"

    @property
    def teacher_path(self) -> Path:
        """The encoder that was distilled and may have a say in the ranking; that of `encoder_path` or its own."""
        own = any(name.startswith("teacher/") for name in self.manifest.files)
        return self.path / "teacher" if own else self.encoder_path

    def _array(self, name: str) -> NDArray[Any]:
        try:
            array: NDArray[Any] = np.load(self.path / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BundleCorrupt(f"{self.path / name}: {error}") from error
        return array

    def verify(self, *, skip: tuple[str, ...] = ()) -> None:
        """Compare the files with the manifest: presence and size of all, digests of those not below a `skip` prefix.

        Raises:
            BundleCorrupt: naming the first file that is missing, of another size, or of another content.
        """
        for name, record in self.manifest.files.items():
            path = self.path / name
            try:
                if not path.is_file():
                    raise BundleCorrupt(f"{path}: missing; the manifest lists it")
                size = path.stat().st_size
                if size != record.size:
                    raise BundleCorrupt(f"{path}: {size} bytes, the manifest says {record.size}")
                if not name.startswith(skip) and sha256_of(path) != record.sha256:
                    raise BundleCorrupt(f"{path}: its content changed since it was published (sha256 differs)")
            except OSError as error:
                raise BundleCorrupt(f"{path}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class ModelStore:
    """The folder of published versions."""

    root: Path

    def versions(self) -> list[str]:
        """Published versions, oldest first."""
        return [bundle.path.name for bundle in self._published()]

    def line_of(self, cache_version: str) -> list[Bundle]:
        """The published versions that share one version's cache entries, oldest first; their files are not verified."""
        return [bundle for bundle in self._published() if bundle.cache_version == cache_version]

    def next_extension(self, base: Bundle) -> str:
        """The name of the next extension of a version; extensions of extensions count in the same line."""
        extensions = [bundle for bundle in self.line_of(base.cache_version) if bundle.manifest.extends is not None]
        numbers = [int(bundle.version.rpartition("+")[2]) for bundle in extensions]
        return f"{base.cache_version}+{max(numbers, default=0) + 1}"

    def active(self) -> str | None:
        """The version being served, if one was activated."""
        return self._pointer(ACTIVE_NAME)

    def open(self, version: str | None = None, *, skip: tuple[str, ...] = ()) -> Bundle:
        """Open a version (the active one by default) and verify it, file digests below `skip` prefixes left out.

        Raises:
            BundleNotFound: no such version, or none is active.
            UnsupportedBundleFormat, BundleCorrupt: what is there cannot be used; the message names the file.
        """
        if version is None:
            version = self.active()
            if version is None:
                raise BundleNotFound(f"{self.root}: no active version; train one, or `tessera models activate VERSION`")
        bundle = Bundle(self._folder(version), self.manifest(version))
        bundle.verify(skip=skip)
        return bundle

    def manifest(self, version: str) -> Manifest:
        """Read a version's manifest and nothing else.

        Raises:
            BundleNotFound, UnsupportedBundleFormat, BundleCorrupt: as for `open`.
        """
        folder = self._folder(version)
        manifest = Manifest.read(folder)
        if manifest.version != version:
            raise BundleCorrupt(f"{folder / MANIFEST_NAME}: says version {manifest.version}, the folder says {version}")
        return manifest

    @contextmanager
    def publishing(self, version: str) -> Iterator[tuple[Path, Callable[[Manifest], Bundle]]]:
        """Give a temporary folder to fill and a function that publishes it; leave nothing behind on failure.

        Usage: `with store.publishing(v) as (folder, publish): ...write files...; bundle = publish(manifest)`.
        """
        target = self._folder(version)
        if target.exists():
            raise BundleCorrupt(f"{target}: already published; versions are never overwritten")
        staging = self.root / f".publishing-{version}-{os.getpid()}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)

        def publish(manifest: Manifest) -> Bundle:
            (staging / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
            for path in staging.rglob("*"):
                if path.is_file():
                    _flush_to_disk(path)
            try:
                staging.rename(target)
            except OSError as error:
                raise BundleCorrupt(f"{target}: could not be published ({error.strerror}); try again") from error
            return Bundle(target, manifest)

        try:
            yield staging, publish
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def activate(self, version: str, *, skip: tuple[str, ...] = (), in_place: bool = False) -> None:
        """Serve `version` from now on, verified first.

        Args:
            version: its name.
            skip: prefixes of files whose digests are not compared.
            in_place: it takes the place of the one before, to which `rollback` then does not go back; otherwise that
                one stays known.
        """
        self.open(version, skip=skip)
        before = self.active()
        if before is not None and before != version and not in_place:
            self._point(PREVIOUS_NAME, before)
        self._point(ACTIVE_NAME, version)

    def rollback(self) -> str:
        """Serve the version that was active before; returns it.

        Raises:
            BundleNotFound: nothing was active before.
        """
        before = self._pointer(PREVIOUS_NAME)
        if before is None:
            raise BundleNotFound(f"{self.root / PREVIOUS_NAME}: no earlier version to go back to")
        self.activate(before)
        return before

    def prune(self, keep: int) -> list[str]:
        """Delete all but the newest `keep` versions and say which.

        The active and the previous one always stay, and with any version the newest of its line of extensions, which
        knows the names and codes that were given away: neither may come to mean something else.
        """
        lines = {bundle.path.name: bundle.cache_version for bundle in self._published()}
        versions = list(lines)
        staying = {self.active(), self._pointer(PREVIOUS_NAME), *versions[max(len(versions) - keep, 0) :]}
        newest_of = {line: version for version, line in lines.items()}
        staying |= {newest_of[line] for version, line in lines.items() if version in staying}
        doomed = [version for version in versions if version not in staying]
        for version in doomed:
            self._delete(version)
        return doomed

    def prune_behind(self, version: str, keep: int, expendable: Callable[[Manifest], bool]) -> list[str]:
        """Delete what a version extends, directly or not, but for the newest `keep` of what is expendable.

        The active and the previous version stay. What the others know of names and codes, the version knows too.

        Args:
            version: an extension.
            keep: how many of those that are expendable stay.
            expendable: whether one may go at all, by its manifest.
        """
        line = {bundle.version: bundle for bundle in self.line_of(self.manifest(version).cache_version)}
        behind: list[str] = []
        at: str | None = version
        while at is not None and (bundle := line.get(at)) is not None:
            if expendable(bundle.manifest):
                behind.append(at)
            at = bundle.manifest.extends
        doomed = [one for one in behind[keep:] if one not in (version, self.active(), self._pointer(PREVIOUS_NAME))]
        for one in doomed:
            self._delete(one)
        return doomed

    def _delete(self, version: str) -> None:
        # Renamed first: a version that is being deleted must not look published.
        grave = self.root / f".pruned-{version}"
        self._folder(version).rename(grave)
        shutil.rmtree(grave)

    def _published(self) -> list[Bundle]:
        """Every version, oldest first, its files not verified."""
        folders = [path.parent for path in self.root.glob(f"*/{MANIFEST_NAME}") if not path.parent.name.startswith(".")]
        return sorted(
            (Bundle(folder, Manifest.read(folder)) for folder in folders),
            key=lambda bundle: (bundle.manifest.created_at, bundle.path.name),
        )

    def _folder(self, version: str) -> Path:
        if not _VERSION.fullmatch(version):
            raise BundleNotFound(f"{version!r} is not a version name (letters, digits, '.', '_', '-' and '+')")
        return self.root / version

    def _pointer(self, name: str) -> str | None:
        try:
            return (self.root / name).read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise BundleCorrupt(f"{self.root / name}: cannot be read ({error})") from error

    def _point(self, name: str, version: str) -> None:
        staging = self.root / f".{name}-{os.getpid()}"
        staging.write_text(version + "\n", encoding="utf-8")
        _flush_to_disk(staging)
        staging.replace(self.root / name)


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
