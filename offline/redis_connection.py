"""The Redis client of the batch jobs: it may wait and retry, which a request must not."""

from collections.abc import Iterator
from contextlib import contextmanager
from ssl import SSLCertVerificationError, SSLError
from typing import Any
from urllib.parse import unquote, urlsplit

from redis import Redis, RedisCluster, Sentinel
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from model_store.errors import TesseraError, causes_of

REDIS_FAILURES = (RedisError, RedisClusterException)
"""What a command can raise. The second is no RedisError: no node of a cluster answers, or none has the slot."""

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 60.0
_RETRIES = 3


def connect(url: str) -> Any:
    """Make a client for any form of TESSERA_REDIS_URL that the service takes, and check that it answers.

    Raises:
        TesseraError: the URL is of no known form, or nothing answers there. The message never repeats the URL, which
            may hold a password.
    """
    scheme, _, rest = url.partition("://")
    options: dict[str, Any] = {
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_timeout": _ANSWER_TIMEOUT_S,
        "client_name": "tessera-batch",
        "retry": Retry(ExponentialBackoff(cap=2.0, base=0.1), _RETRIES),
        "retry_on_error": [RedisConnectionError, RedisTimeoutError],
    }
    client: Any
    try:
        match scheme:
            case "redis" | "rediss" | "unix":
                client = Redis.from_url(url, **options)
            case "redis+cluster" | "rediss+cluster":
                del options["retry_on_error"]
                client = RedisCluster.from_url(f"{scheme.removesuffix('+cluster')}://{rest}", **options)
            case "redis+sentinel":
                client = _through_sentinels(url, options)
            case _:
                raise TesseraError(
                    f"TESSERA_REDIS_URL: scheme {scheme!r} is none of redis, rediss, unix, redis+cluster, "
                    "rediss+cluster, redis+sentinel"
                )
        client.ping()
    except (OSError, RedisConnectionError, RedisTimeoutError, RedisClusterException, NoPermissionError) as error:
        raise TesseraError(f"Redis ({scheme}://...) {_what_is_wrong(scheme, error)}") from None
    except ValueError as error:
        raise TesseraError(f"TESSERA_REDIS_URL ({scheme}://...) cannot be read: {type(error).__name__}") from None
    return client


@contextmanager
def told(what: str) -> Iterator[None]:
    """Make expected trouble of what Redis refuses or does not answer.

    Args:
        what: was being done, the beginning of the message.

    Raises:
        TesseraError: Redis failed within the context.
    """
    try:
        yield
    except REDIS_FAILURES as error:
        raise TesseraError(f"{what}: Redis said: {error}") from error


def _what_is_wrong(scheme: str, error: Exception) -> str:
    """Why there is no connection, in words that repeat nothing of the URL."""
    for cause in causes_of(error):
        match cause:
            case AuthenticationError() | AuthorizationError() | NoPermissionError():
                return "refuses the user or the password of TESSERA_REDIS_URL"
            case SSLCertVerificationError():
                return f"has a certificate that is not trusted: {cause.verify_message}; name its CA with ssl_ca_certs"
            case SSLError():
                return f"makes no TLS connection: {cause.reason or 'no TLS there'}"
            case FileNotFoundError() if scheme.startswith("rediss"):
                return "cannot be reached: a file that TESSERA_REDIS_URL names is missing"
    return f"does not answer: {type(error).__name__}; is it running?"


def _through_sentinels(url: str, options: dict[str, Any]) -> Any:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    sentinels = [(host, int(port or 26379)) for host, _, port in (h.partition(":") for h in hosts.split(","))]
    service, _, database = parts.path.strip("/").partition("/")
    user, _, password = (unquote(part) for part in credentials.partition(":"))
    sentinel: Any = Sentinel(sentinels, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    return sentinel.master_for(
        service, db=int(database or 0), username=user or None, password=password or None, **options
    )
