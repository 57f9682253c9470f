"""An export on its way into a file: in whole lines as they come, up to one that says it broke off."""

import json
from typing import BinaryIO

from tessera_client.errors import ExportIncomplete

_ERROR = b'{"error":'


class ExportFile:
    """Takes the parts of an answer.

    Args:
        file: gets the lines.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = b""
        self._lines = 0

    def take(self, part: bytes) -> None:
        """Write the lines that end in this part.

        Raises:
            ExportIncomplete: the service says that it could not go on; what came before is written.
        """
        whole, newline, self._rest = (self._rest + part).rpartition(b"\n")
        if not newline:
            return
        before, _, last = whole.rpartition(b"\n")
        if last.startswith(_ERROR):
            self._write(before + b"\n" if before else b"")
            raise ExportIncomplete(_detail(last))
        self._write(whole + newline)

    def end(self) -> int:
        """How many lines there were.

        Raises:
            ExportIncomplete: the answer ended within a line.
        """
        if self._rest:
            raise ExportIncomplete("the answer ended within a line")
        return self._lines

    def _write(self, lines: bytes) -> None:
        self._file.write(lines)
        self._lines += lines.count(b"\n")


def _detail(line: bytes) -> str:
    try:
        return str(json.loads(line)["error"]["detail"])
    except (ValueError, KeyError, TypeError):
        return "the service could not go on"
