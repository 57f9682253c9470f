"""The OpenAPI document: well formed, complete enough to make a client of, its examples true."""

import keyword
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis

from tests.app.openapi_document import Operation, document, operations, resolved

OPERATIONS = [pytest.param(operation, id=f"{operation.method} {operation.path}") for operation in operations()]
EVERYWHERE = {"400", "401", "403", "408", "413", "414", "422", "429", "500", "503"}
OPEN = ("/health/", "/api/health/")
"""Routes that take no key."""


def schemas_within(part: Any) -> Iterator[str]:
    """Every reference below a part of the document."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from schemas_within(value)
    elif isinstance(part, list):
        for value in part:
            yield from schemas_within(value)


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """Of a schema that refers to others of the document."""
    whole = {"components": document()["components"], **schema}
    return jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker())


def test_document_is_openapi_3_1() -> None:
    assert document()["openapi"].startswith("3.1")
    schema = schemathesis.openapi.from_dict(document())
    schema.validate()
    for name, component in document()["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(component)
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)


def test_every_reference_leads_somewhere() -> None:
    references = set(schemas_within(document()))
    assert references
    for reference in references:
        assert resolved({"$ref": reference})


def test_operation_ids_are_unique() -> None:
    counted = Counter(operation.name for operation in operations())
    assert {name: times for name, times in counted.items() if times > 1} == {}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_id_is_a_name_for_a_method(operation: Operation) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", operation.name)
    assert not keyword.iskeyword(operation.name)
    # FastAPI's own names repeat path and method.
    assert not re.search(r"_(get|put|post|patch|delete)$", operation.name)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_is_described(operation: Operation) -> None:
    assert operation.described["summary"]
    assert operation.described["description"]
    assert len(operation.described["tags"]) == 1
    in_path = set(re.findall(r"\{(\w+)\}", operation.path))
    assert {one["name"] for one in operation.parameters if one["in"] == "path"} == in_path
    assert all(one["required"] for one in operation.parameters if one["in"] == "path")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_says_how_it_can_fail(operation: Operation) -> None:
    responses = operation.described["responses"]
    assert set(responses) >= EVERYWHERE
    for status, said in responses.items():
        assert said["description"]
        if int(status) < 400:
            continue
        (content,) = (said["content"]["application/problem+json"],)
        assert list(said["content"]) == ["application/problem+json"]
        assert content["examples"]
        for example in content["examples"].values():
            assert example["value"]["status"] == int(status)
            validator(content["schema"]).validate(example["value"])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_needs_a_key_unless_it_is_about_health(operation: Operation) -> None:
    schemes = document()["components"]["securitySchemes"]
    wanted = operation.described.get("security", [])
    if operation.path.startswith(OPEN):
        assert wanted == []
    else:
        assert [name for one in wanted for name in one] == ["APIKeyHeader"]
    assert schemes["APIKeyHeader"]["in"] == "header"
    assert schemes["APIKeyHeader"]["name"] == "X-API-Key"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_has_a_true_example_of_its_answer(operation: Operation) -> None:
    successes = [said for status, said in operation.described["responses"].items() if status.startswith("2")]
    if operation.path.startswith("/api/") and not successes:
        # A call of Gorse's that is always refused.
        (refusal,) = operation.described["responses"]["501"]["content"].values()
        assert list(refusal["examples"]) == ["not-stored"]
        return
    assert successes
    for content in [content for said in successes for content in said.get("content", {}).values()]:
        assert "example" in content, f"add one for {operation.name} to app/openapi_examples.py"
        if "schema" in content:
            validator(content["schema"]).validate(content["example"])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_has_a_true_example_of_its_request(operation: Operation) -> None:
    for parameter in operation.parameters:
        if parameter["in"] == "path":
            assert "example" in parameter, f"add one for {parameter['name']} to app/openapi_examples.py"
            validator(parameter["schema"]).validate(parameter["example"])
    for content in operation.described.get("requestBody", {}).get("content", {}).values():
        assert "example" in content, f"add one for {operation.name} to app/openapi_examples.py"
        validator(content["schema"]).validate(content["example"])
