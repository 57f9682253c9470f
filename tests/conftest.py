"""Being here, it puts the repository root on the import path, so that tests can share `tests.tiny_bundle`."""

import os
import secrets

import pytest

# vLLM imports Ray, and Ray reads these once: they must be what a cluster of this machine is started with later.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=5, help="how often test_refresh_kills.py kills a refresh")
    parser.addoption("--redis-kills", type=int, default=1, help="how often it kills Redis")
    parser.addoption("--fuzz-cases", type=int, default=600, help="requests that test_schemathesis.py makes in all")


@pytest.fixture(scope="session")
def fuzz_cases(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--fuzz-cases"))
