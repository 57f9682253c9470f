"""An export is written in whole lines, and one that broke off is an error."""

from io import BytesIO

import pytest

from tessera_client import ExportIncomplete
from tessera_client.export_file import ExportFile

LINES = b'{"a":1}\n{"b":2}\n{"c":3}\n'
STOPPED = b'{"error":{"reason":"redis","detail":"Redis failed."}}\n'


@pytest.mark.parametrize("size", range(1, len(LINES) + 1))
def test_parts_of_any_size_are_the_same_lines(size: int) -> None:
    file = BytesIO()
    export = ExportFile(file)
    for start in range(0, len(LINES), size):
        export.take(LINES[start : start + size])
    assert export.end() == 3
    assert file.getvalue() == LINES


@pytest.mark.parametrize("size", [1, 5, 10, 1000])
def test_a_line_that_says_it_broke_off_is_an_error_and_not_written(size: int) -> None:
    file, sent = BytesIO(), LINES + STOPPED
    export = ExportFile(file)

    def take_all() -> None:
        for start in range(0, len(sent), size):
            export.take(sent[start : start + size])

    with pytest.raises(ExportIncomplete, match="Redis failed"):
        take_all()
    assert file.getvalue() == LINES


def test_an_answer_that_ends_within_a_line_is_an_error() -> None:
    export = ExportFile(BytesIO())
    export.take(LINES[:-3])
    with pytest.raises(ExportIncomplete, match="within a line"):
        export.end()
