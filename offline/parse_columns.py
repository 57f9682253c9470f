"""Text columns to numbers, times, flags and categories, with a mask of the cells that are none. Shapes: N rows."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from offline.read_table import RawTable, flat_texts

_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_UNKNOWN = ("", "nan", "null", "none", "na", "n/a")
_YES = ("true", "1", "1.0", "yes", "y", "t")
_NO = ("false", "0", "0.0", "no", "n", "f")
_SEPARATORS = ("|", ";", ",")


@dataclass(frozen=True)
class Numbers:
    """A column read as numbers."""

    values: NDArray[np.float64]
    """Shape (N,); NaN where unknown or bad."""
    bad: NDArray[np.bool_]
    """Shape (N,); cells that hold something else."""


def parse_numbers(strings: pa.ChunkedArray) -> Numbers:
    """Finite decimal numbers; an empty cell and the usual words for nothing (NaN, null, N/A) are unknown, not bad."""
    looks_right = pc.match_substring_regex(strings, _NUMBER)
    trimmed = pc.utf8_trim_whitespace(pc.if_else(looks_right, strings, None))
    # Arrow reads no leading plus sign.
    numbers = pc.replace_substring_regex(trimmed, r"^\+", "").cast(pa.float64())
    # A copy: Arrow's memory is read-only.
    values = numbers.to_numpy().astype(np.float64)
    unknown = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(strings)), pa.array(_UNKNOWN)).to_numpy()
    values[np.isinf(values)] = np.nan
    return Numbers(values, np.isnan(values) & ~unknown)


def parse_timestamps(table: RawTable, name: str) -> Numbers:
    """Numbers as they are; ISO 8601 dates and Parquet times as Unix seconds, UTC where no zone is given.

    An event without a time cannot be put in order, so here an empty cell is bad too.
    """
    column = table.columns[name]
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        # Unsafe: nanoseconds may be lost, nothing else.
        microseconds = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
        seconds = pc.divide(microseconds.cast(pa.float64()), 1e6).to_numpy().astype(np.float64)
        return Numbers(seconds, np.isnan(seconds))
    strings = table.strings(name)
    values = parse_numbers(strings).values
    no_number = np.isnan(values)
    dates = strings.filter(pa.array(no_number)).to_pylist()
    values[no_number] = [unix_seconds(text) for text in dates]
    return Numbers(values, np.isnan(values))


def unix_seconds(text: str) -> float:
    """An ISO 8601 date as Unix seconds, UTC where no zone is given; NaN where it is none."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return np.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_flags(strings: pa.ChunkedArray, default: bool) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Yes or no, in the usual spellings.

    Returns:
        The flags, shape (N,), `default` where empty or bad; and the mask of bad cells, shape (N,).
    """
    words = pc.utf8_lower(pc.utf8_trim_whitespace(strings))
    yes, no, unknown = (pc.is_in(words, pa.array(known)).to_numpy() for known in (_YES, _NO, _UNKNOWN))
    flags = np.where(yes | no, yes, default)
    return flags, ~(yes | no | unknown)


def parse_categories(table: RawTable, name: str) -> list[tuple[str, ...]]:
    """Each row's categories, without repeats.

    Lists stay lists, flattened. In an atomic file a `token_seq` is separated by blanks and an underscore stands for a
    blank. Other text is separated by the first of `|`, `;` and `,` that occurs anywhere in the column, so that a name
    may hold the others.
    """
    column = table.columns[name]
    lists: list[list[str]]
    if pa.types.is_nested(column.type):
        lists = [list(flat_texts(value)) for value in column.to_pylist()]
    else:
        texts = table.strings(name).to_pylist()
        kind = table.recbole_types.get(name)
        if kind == "token":
            lists = [[text] for text in texts]
        elif kind is not None:
            lists = [[token.replace("_", " ") for token in text.split()] for text in texts]
        else:
            separator = next((mark for mark in _SEPARATORS if any(mark in text for text in texts)), ",")
            lists = [text.split(separator) for text in texts]
    return [tuple(dict.fromkeys(part.strip() for part in parts if part.strip())) for parts in lists]
