"""Everything that can go wrong in a request, as RFC 9457 `application/problem+json`.

    Problem
      BadAddress 400   KeyRequired 401   NotLocal 403   CrossSite 403   ScopeMissing 403   ItemNotFound 404
      BodyTooSlow 408   BodyTooLarge 413   AddressTooLong 414   NothingToRankBy 422   NoRanker 422
      TooManyToRank 422   RateLimited 429
      QueryNotSupported 501   Overloaded 503
      StorageUnavailable 503   RankingUnavailable 503   WindowNotCounted 503

Those of an administrator are in `app.admin_problems`, those of changes to the catalogue in `app.item_problems`,
those of events and blocks in `app.event_problems`,
that of Gorse's calls in `app.gorse.problems`.

Raised by routes, rendered here, listed in OpenAPI. Validation (422), unknown paths (404), wrong methods (405) and
crashes (500, nothing of their inside shown) have the same shape: {type, title, status, detail, request_id, errors?}.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

PROBLEM_JSON = "application/problem+json"
_MAX_ERRORS = 50
_MAX_NAME = 100
_TITLES = {400: "Bad request", 404: "No such page", 405: "Method not allowed"}


class InvalidField(BaseModel):
    """One thing a validation found."""

    location: list[str | int] = Field(description="where: query, path or body, then names and row numbers")
    message: str
    type: str


class ProblemBody(BaseModel):
    """The body of every answer that is not a success."""

    type: str = Field(
        description="a stable name of the kind of problem", examples=["urn:tessera:problem:item-not-found"]
    )
    title: str
    status: int
    detail: str
    request_id: str | None = None
    errors: list[InvalidField] | None = Field(default=None, description="validation only: what is wrong, and where")


class Problem(Exception):
    """Expected trouble of a request."""

    status: ClassVar[int]
    name: ClassVar[str]
    title: ClassVar[str]
    detail: ClassVar[str]
    headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, detail: str | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        self.shown = detail if detail is not None else self.detail
        self.shown_headers = {**self.headers, **(headers or {})}
        super().__init__(self.shown)


class BadAddress(Problem):
    """A path that no route could take for what it is: patterns of paths end at a line break."""

    status = 400
    name = "bad-address"
    title = "Not an address"
    detail = "The path holds a line break, which no id has."


class KeyRequired(Problem):
    """No key, or one that is not known."""

    status = 401
    name = "key-required"
    title = "API key required"
    detail = "Send a known key in the X-API-Key header."
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": 'ApiKey realm="tessera"'}


class NotLocal(Problem):
    """No keys are configured and the caller is on another machine."""

    status = 403
    name = "not-local"
    title = "Only local clients are answered"
    detail = (
        "No API keys are configured (TESSERA_API_KEYS_FILE, TESSERA_API_KEYS), so only clients on the server's own "
        "machine are answered, at localhost, 127.0.0.1 or [::1]."
    )


class CrossSite(Problem):
    """No keys are configured and a web page of another origin wants to change something."""

    status = 403
    name = "cross-site"
    title = "Not for pages of another origin"
    detail = "A page of another origin sent this; TESSERA_CORS_ORIGINS lists those that may."


class ScopeMissing(Problem):
    """The key is known but not good for this."""

    status = 403
    name = "scope-missing"
    title = "The key lacks a scope"
    detail = "The key does not have the scope this call needs."


class ItemNotFound(Problem):
    """An item id in the path that is not in the catalogue."""

    status = 404
    name = "item-not-found"
    title = "No such item"
    detail = "The catalogue of the served model version has no item with this id."


class BodyTooSlow(Problem):
    """The body did not arrive within TESSERA_BODY_TIMEOUT_MS."""

    status = 408
    name = "body-too-slow"
    title = "Request body too slow"
    detail = "The body did not arrive in time; send it again."
    headers: ClassVar[Mapping[str, str]] = {"Connection": "close"}


class BodyTooLarge(Problem):
    """More bytes than TESSERA_MAX_BODY_BYTES."""

    status = 413
    name = "body-too-large"
    title = "Request body too large"
    detail = "Send fewer rows per request."


class AddressTooLong(Problem):
    """More bytes of path and query than TESSERA_MAX_ADDRESS_BYTES."""

    status = 414
    name = "address-too-long"
    title = "Address too long"
    detail = "Send long lists in the body of a POST."


class NothingToRankBy(Problem):
    """Items are to be ranked for somebody of whom nothing is known, and without a query."""

    status = 422
    name = "nothing-to-rank-by"
    title = "Nothing to rank by"
    detail = "No item of the history is in the served catalogue; record events of the user, or send history or q."


class TooManyToRank(Problem):
    """More items than a ranker is given at once (TESSERA_RANKER_MAX_ITEMS)."""

    status = 422
    name = "too-many-to-rank"
    title = "Too many items for the ranker"
    detail = "Send fewer items, or by=codes."


class NoRanker(Problem):
    """by=ranker, and there is none that could answer."""

    status = 422
    name = "no-ranker"
    title = "No ranker"
    detail = "The served model version has no ranker; leave out by, or activate a version that has one."


class RateLimited(Problem):
    """The caller asks more often than it may.

    Args:
        wait_s: seconds after which a request would be answered.
        allowed: requests that may come at once.
    """

    status = 429
    name = "rate-limited"
    title = "Too many requests"
    detail = "More requests than the key may send; see Retry-After."

    def __init__(self, wait_s: int, allowed: int) -> None:
        headers = {
            "Retry-After": str(wait_s),
            "RateLimit-Limit": str(allowed),
            "RateLimit-Remaining": "0",
            "RateLimit-Reset": str(wait_s),
        }
        super().__init__(headers=headers)


class QueryNotSupported(Problem):
    """`q` was given and the served model version has prompts without a place for a query."""

    status = 501
    name = "query-not-supported"
    title = "Text queries are not supported"
    detail = "The served model version cannot take a text query; leave out q."


class Overloaded(Problem):
    """More than TESSERA_MAX_IN_FLIGHT requests are being answered."""

    status = 503
    name = "overloaded"
    title = "Too many requests at once"
    detail = "The server is answering as many requests as it may at once; try again."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class StorageUnavailable(Problem):
    """Redis cannot be reached, and the call is about what is in it."""

    status = 503
    name = "storage-unavailable"
    title = "Storage unavailable"
    detail = "Redis cannot be reached. Nothing of this request counts as accepted; send it again."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class WindowNotCounted(Problem):
    """Popular items of a window, before this worker has once read them."""

    status = 503
    name = "window-not-counted"
    title = "Window not counted"
    detail = "Redis cannot be reached, and the events of this window are in it; try again, or leave out window."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class RankingUnavailable(Problem):
    """The decoder gave no scores, and nothing else has them."""

    status = 503
    name = "ranking-unavailable"
    title = "Ranking unavailable"
    detail = "The decoder gave no answer; try again."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


def problem_response(
    status: int,
    name: str,
    title: str,
    detail: str,
    *,
    request_id: str | None,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, Any]] | None = None,
) -> Response:
    """Render one problem."""
    body: dict[str, Any] = {
        "type": f"urn:tessera:problem:{name}",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    if errors is not None:
        body["errors"] = errors
    return Response(orjson.dumps(body), status, headers, PROBLEM_JSON)


def render(problem: Problem, request_id: str | None) -> Response:
    """Render an expected problem."""
    return problem_response(
        problem.status, problem.name, problem.title, problem.shown, request_id=request_id, headers=problem.shown_headers
    )


def crash(request_id: str | None) -> Response:
    """Render a defect: nothing of its inside is shown."""
    detail = "The failure was logged under this request id."
    return problem_response(500, "internal-error", "The server failed", detail, request_id=request_id)


def responses(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of a route: its own problems, and those every route has."""
    # Not `model`: FastAPI would list application/json beside the media type it really has.
    schema = {"$ref": "#/components/schemas/ProblemBody"}
    described: dict[int, tuple[list[str], dict[str, Any]]] = {}
    for status, name, title, detail in (*_EVERYWHERE, *(_described(p) for p in (*_PROBLEMS_EVERYWHERE, *problems))):
        titles, examples = described.setdefault(status, ([], {}))
        titles.append(title)
        body = {"type": f"urn:tessera:problem:{name}", "title": title, "status": status, "detail": detail}
        examples[name] = {"value": body | {"request_id": "3f1c9a0b7d2e4c58"}}
    return {
        status: {
            "description": "; ".join(titles),
            "content": {PROBLEM_JSON: {"schema": schema, "examples": examples}},
        }
        for status, (titles, examples) in sorted(described.items())
    }


def _described(problem: type[Problem]) -> tuple[int, str, str, str]:
    return problem.status, problem.name, problem.title, problem.detail


_EVERYWHERE = (
    (400, "bad-request", "Bad request", "There was an error parsing the body"),
    (422, "invalid-request", "The request is not valid", "1 thing to correct; see errors."),
    (500, "internal-error", "The server failed", "The failure was logged under this request id."),
)
_PROBLEMS_EVERYWHERE: tuple[type[Problem], ...] = (
    BadAddress,
    KeyRequired,
    NotLocal,
    CrossSite,
    ScopeMissing,
    BodyTooSlow,
    BodyTooLarge,
    AddressTooLong,
    RateLimited,
    Overloaded,
)


def install(app: FastAPI) -> None:
    """Make every failure of `app` a problem; `app.request_boundary` does it for crashes and for bodies too large."""

    async def expected(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return render(error, _request_id(request))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = error.errors()
        # What was sent is not repeated: it may hold histories.
        errors = [
            {"location": list(map(_shown, e["loc"])), "message": e["msg"], "type": e["type"]}
            for e in found[:_MAX_ERRORS]
        ]
        detail = f"{len(found)} thing{'s' if len(found) > 1 else ''} to correct; see errors."
        whole = {e["type"] for e in found if tuple(e["loc"]) == ("body",)}
        if whole & {"model_attributes_type", "list_type"} and "json" not in request.headers.get("content-type", ""):
            detail += " The body was not read as JSON: send the header Content-Type: application/json."
        return problem_response(
            422, "invalid-request", "The request is not valid", detail, request_id=_request_id(request), errors=errors
        )

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        title = _TITLES.get(error.status_code, "The request failed")
        return problem_response(
            error.status_code,
            title.lower().replace(" ", "-"),
            title,
            str(error.detail),
            request_id=_request_id(request),
            headers=error.headers,
        )

    app.add_exception_handler(Problem, expected)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    _describe_body(app)


def _describe_body(app: FastAPI) -> None:
    """Put the schema that `responses` refers to into the OpenAPI document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schema = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
        document["components"]["schemas"].update({**schema.pop("$defs"), "ProblemBody": schema})
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _shown(part: str | int) -> str | int:
    """A part of a location. The name of an unknown field is the caller's own: of any length, and of any characters."""
    return part if isinstance(part, int) else part[:_MAX_NAME].encode("utf-8", "replace").decode()


def _request_id(request: Request) -> str | None:
    request_id = request.scope.get("request_id")
    return request_id if isinstance(request_id, str) else None
