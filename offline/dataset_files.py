"""Which files of a folder are the data, their digest, and whether text files are UTF-8.

    interactions   <name>.inter                                                 RecBole atomic file
                   <name>.train.inter, <name>.valid.inter, <name>.test.inter    the same in parts, read in this order
                   <name>.inter.csv|parquet|jsonl                               also in parts: <name>.train.inter.csv
                   interactions.csv|parquet|jsonl
    items          <name>.item, <name>.item.csv|parquet|jsonl, items.csv|parquet|jsonl    optional

Exactly one set of interactions and at most one items file may match: a newer or larger one is never guessed.
"""

import codecs
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from offline.data_problems import DataError

_PARTS = ("train", "valid", "test")
_INTERACTIONS = re.compile(r"(?P<name>[^.].*?)(\.(?P<part>train|valid|test))?\.inter(?P<format>\.(csv|parquet|jsonl))?")
_ITEMS = re.compile(r"(?P<name>[^.].*?)\.item(\.(csv|parquet|jsonl))?")
_PLAIN_INTERACTIONS = re.compile(r"interactions\.(csv|parquet|jsonl)")
_PLAIN_ITEMS = re.compile(r"items\.(csv|parquet|jsonl)")
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class DataFiles:
    """The files that make one data set."""

    name: str
    """`<name>` of the interactions file, or the folder's own name."""
    interactions: tuple[Path, ...]
    items: Path | None


def find_data_files(folder: Path) -> DataFiles:
    """The data files of a folder, by the names this module's docstring lists.

    Raises:
        DataError: no folder, no interactions, or more than one candidate.
    """
    if not folder.is_dir():
        raise DataError("no such folder" if not folder.exists() else "is a file; name the folder that holds it", folder)
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    sets: dict[tuple[str | None, str, bool], list[tuple[str, Path]]] = {}
    for path in paths:
        if match := _INTERACTIONS.fullmatch(path.name):
            part = match["part"]
            key = (match["name"], match["format"] or "", part is not None)
            sets.setdefault(key, []).append((part or "", path))
        elif _PLAIN_INTERACTIONS.fullmatch(path.name):
            sets[(None, path.suffix, False)] = [("", path)]
    if not sets:
        found = ", ".join(path.name for path in paths[:8]) or "nothing"
        raise DataError(
            "no interactions file: expected <name>.inter, <name>.inter.csv|parquet|jsonl or "
            f"interactions.csv|parquet|jsonl, found {found}",
            folder,
        )
    if len(sets) > 1:
        names = ", ".join(path.name for files in sets.values() for _, path in files)
        raise DataError(f"several interactions files: {names}. Keep one data set in a folder", folder)
    ((name, _, in_parts), files) = next(iter(sets.items()))
    if in_parts:
        files.sort(key=lambda part_and_path: _PARTS.index(part_and_path[0]))
    return DataFiles(
        name=name or folder.resolve().name,
        interactions=tuple(path for _, path in files),
        items=_find_items(folder, paths, name),
    )


def _find_items(folder: Path, paths: Iterable[Path], name: str | None) -> Path | None:
    candidates = []
    for path in paths:
        if match := _ITEMS.fullmatch(path.name):
            if name is not None and match["name"] != name:
                raise DataError(
                    f"{path.name} does not belong to the interactions of {name!r}: rename it to {name}.item... "
                    "or take it out of the folder",
                    folder,
                )
            candidates.append(path)
        elif _PLAIN_ITEMS.fullmatch(path.name):
            candidates.append(path)
    if len(candidates) > 1:
        raise DataError(f"several items files: {', '.join(p.name for p in candidates)}. Keep one", folder)
    return candidates[0] if candidates else None


def check_and_digest(files: DataFiles) -> str:
    """Reads every file once: its text must be UTF-8, and the digest covers names and bytes.

    Returns:
        sha256 over name, size and bytes of the files in order of name, hex.

    Raises:
        DataError: a file is empty, unreadable or, unless Parquet, not UTF-8.
    """
    digest = hashlib.sha256()
    paths = [*files.interactions, *([files.items] if files.items else [])]
    for path in sorted(paths, key=lambda path: path.name):
        try:
            size = path.stat().st_size
            if size == 0:
                raise DataError("the file is empty", path)
            digest.update(f"{path.name}\0{size}\0".encode())
            check = None if path.suffix == ".parquet" else _Utf8Check(path)
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    if check:
                        check.feed(chunk)
            if check:
                check.feed(b"", final=True)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", path) from error
    return digest.hexdigest()


class _Utf8Check:
    """Finds the first byte that is not text, and its line, in a file read by pieces."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._line = 1
        self._offset = 0

    def feed(self, chunk: bytes, final: bool = False) -> None:
        held_back = self._decoder.getstate()[0]
        data = held_back + chunk
        try:
            self._decoder.decode(chunk, final)
            # UTF-16 text in ASCII range is valid UTF-8 with every other byte NUL.
            bad = data.find(b"\0")
        except UnicodeDecodeError as error:
            bad = error.start
        if bad >= 0:
            raise DataError(
                f"byte {self._offset - len(held_back) + bad} (0x{data[bad]:02x}) is not UTF-8 text. Convert the file, "
                f"for example: iconv -f latin1 -t utf-8 {self._path.name}",
                self._path,
                self._line + data.count(b"\n", 0, bad),
            )
        self._line += chunk.count(b"\n")
        self._offset += len(chunk)
