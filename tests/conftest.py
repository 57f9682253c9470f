"""Being here, it puts the repository root on the import path, so that tests can share `tests.tiny_bundle`."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=8, help="how often test_refresh_kills.py kills a refresh")
    parser.addoption("--redis-kills", type=int, default=2, help="how often it kills Redis")
