"""What can be wrong, as plain exceptions that know nothing of HTTP or the command line.

    TesseraError
      BundleNotFound           no such version, or none is active
      BundleCorrupt            a file of a bundle is missing, changed or makes no sense
      UnsupportedBundleFormat  a bundle of a format this version does not read
      UnknownItem              an item id that is not in the catalogue
      CacheEntryUnreadable     a cached value of another format
      DecoderUnusable          the model cannot be decoded as asked (architecture, tokens, settings)

Every message says what, where and what to do; the command line prints it as it is and exits 1.
"""

from collections.abc import Iterator


class TesseraError(Exception):
    """Expected trouble: its message is for the person at the terminal."""


class BundleNotFound(TesseraError):
    """The store holds no such version, or none is active."""


class BundleCorrupt(TesseraError):
    """A bundle's file is missing, unreadable or not what its manifest says."""


class UnsupportedBundleFormat(TesseraError):
    """The bundle's format is newer than this code, or unknown to it."""


class UnknownItem(TesseraError):
    """The catalogue has no item of this id."""


class CacheEntryUnreadable(TesseraError):
    """A cached value is of another format."""


class DecoderUnusable(TesseraError):
    """The model cannot be decoded as asked."""


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An error, and those it was made from, the last one first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
