"""A file that is there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from model_store.errors import TesseraError


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file beside its place, readable by nobody else, and rename it when the block has ended well.

    Raises:
        TesseraError: the file cannot be written; what was there stays.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(os.open(staging, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    except OSError as error:
        raise TesseraError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        staging.unlink(missing_ok=True)
