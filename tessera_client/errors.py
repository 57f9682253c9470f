"""Everything that can go wrong in a call.

    TesseraError
      ConnectionFailed  TimedOut  AnswerUnreadable        no answer, none in time, or not one of Tessera's
      ExportIncomplete                                    a part of one
      InvalidRequest 422   KeyRejected 401   NotAllowed 403   NotFound 404   Conflict 409   TooLarge 413
      TooManyRequests 429   NotSupported 501   Unavailable 503   ServerFailed, every other status

The service answers errors as RFC 9457 problems; what they say is in the attributes.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class InvalidField:
    """One thing the service found wrong with a request.

    Attributes:
        location: where: query, path or body, then names and row numbers.
        message: what, for people.
        type: what, for programs.
    """

    location: tuple[str | int, ...]
    message: str
    type: str


class TesseraError(Exception):
    """A call that did not do what was asked.

    Attributes:
        status: of the HTTP answer; None without one.
        type: a stable name of the kind of problem, such as `urn:tessera:problem:item-not-found`.
        detail: what is wrong, for people.
        errors: of an InvalidRequest, what is wrong and where.
        request_id: the service's logs have it too.
        retry_after_s: seconds after which the service wants to be asked again; None where it does not say.
        recorded: of `record_events` and `write_items`, how many rows at the beginning had been answered for before.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        type: str | None = None,
        errors: Sequence[InvalidField] = (),
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.status = status
        self.type = type
        self.detail = detail
        self.errors = tuple(errors)
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.recorded = 0
        super().__init__(detail)

    def __str__(self) -> str:
        said = self.detail if self.status is None else f"{self.status}: {self.detail}"
        said += "".join(f"; {'.'.join(map(str, error.location))}: {error.message}" for error in self.errors)
        return said if self.request_id is None else f"{said} (request {self.request_id})"


class ConnectionFailed(TesseraError):
    """Nobody answered at the address, or the connection broke."""


class TimedOut(TesseraError):
    """No whole answer in time."""


class AnswerUnreadable(TesseraError):
    """An answer, but not one of a Tessera that this client knows."""


class ExportIncomplete(TesseraError):
    """An export that broke off; what came before is in the file."""


class InvalidRequest(TesseraError):
    """The service found something wrong with what was sent; see `errors`."""


class KeyRejected(TesseraError):
    """No API key was sent, or one that the service does not know."""


class NotAllowed(TesseraError):
    """The key lacks a scope, or the service answers local clients only."""


class NotFound(TesseraError):
    """No such item, version or job."""


class Conflict(TesseraError):
    """What is there already does not agree with the call."""


class TooLarge(TesseraError):
    """The request's body is larger than the service takes."""


class TooManyRequests(TesseraError):
    """The service was asked too often, and still was when the retries were used up."""


class NotSupported(TesseraError):
    """The served model version cannot do this."""


class Unavailable(TesseraError):
    """A part of the service that the call needs is away, and still was when the retries were used up."""


class ServerFailed(TesseraError):
    """Any other status; the service's logs say more under `request_id`."""


BY_STATUS: dict[int, type[TesseraError]] = {
    401: KeyRejected,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: InvalidRequest,
    429: TooManyRequests,
    501: NotSupported,
    503: Unavailable,
}
