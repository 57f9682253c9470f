"""Requests made from the OpenAPI document, right ones and wrong ones: every answer is as the document says.

`make fuzz` does the same with many more.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from pydantic import SecretStr
from schemathesis import Case, GenerationMode
from schemathesis.python.asgi import shutdown_lifespans
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.types import Receive, Scope, Send

from app import embedded_redis
from app.main import create_app
from app.settings import Settings
from model_store.bundle import Bundle
from tests.app.openapi_document import operations

KEY = "fuzz-" + "k" * 20
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    allow_header_conformance,
]
UNAVAILABLE = (501, 503)
"""Statuses of a part that is not there, which the document has to name."""
TAKING_INPUT = [operation.name for operation in operations() if operation.parameters or operation.body_schema]
CASES = [
    *((operation.name, GenerationMode.POSITIVE) for operation in operations()),
    *((name, GenerationMode.NEGATIVE) for name in TAKING_INPUT),
]


@pytest.fixture(scope="module", params=["without keys", "with keys"])
def schema(
    request: pytest.FixtureRequest, store: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BaseSchema]:
    """Of an application that runs, with a Redis of its own."""
    home = tmp_path_factory.mktemp("home")
    keys = SecretStr(f"admin:{KEY}") if request.param == "with keys" else None
    embedded_redis.ensure_running(home)
    app = create_app(Settings(store=store, home=home, api_keys=keys, redis_timeout_ms=1000))

    asked = 0

    async def from_this_machine(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += scope["type"] == "http"
        # The client that schemathesis makes up has no address.
        await app({**scope, "client": ("127.0.0.1", 40000)}, receive, send)

    schema = schemathesis.openapi.from_asgi("/openapi.json", from_this_machine)
    schema.config.headers = None if keys is None else {"X-API-Key": KEY}
    yield schema
    shutdown_lifespans()
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{asked} requests {request.param}")
    embedded_redis.stop(home)


@pytest.mark.parametrize(("operation_id", "mode"), CASES, ids=[f"{name}-{mode.value}" for name, mode in CASES])
def test_every_answer_is_as_the_document_says(
    schema: BaseSchema, operation_id: str, mode: GenerationMode, fuzz_cases: int
) -> None:
    # Each operation that takes anything is tried in two modes, with and without keys.
    (operation,) = [
        found
        for one in schema.get_all_operations()
        if (found := one.ok()).definition.raw["operationId"] == operation_id
    ]
    headers = schema.config.headers
    statuses: list[int] = []

    @hypothesis.settings(
        max_examples=math.ceil(fuzz_cases / (2 * 2 * len(TAKING_INPUT))),
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: Case) -> None:
        answer = case.call(base_url="http://localhost", headers=headers)
        assert answer.status_code < 500 or answer.status_code in UNAVAILABLE, answer.text
        statuses.append(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    holds()
    # A Host that was made up is refused; nearly all must get beyond the door.
    refused = sum(status in (401, 403) for status in statuses)
    assert refused <= len(statuses) / 5
