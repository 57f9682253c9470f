"""Who is let in to a route: by key, or without keys from this machine alone; and how often."""

import math
import time
from functools import lru_cache

from starlette import types

from app.api_keys import ApiKeys, Scope, is_local
from app.key_file import follow, read_keys
from app.problems import CrossSite, KeyRequired, NotLocal, RateLimited, ScopeMissing
from app.rate_limit import RateLimit
from app.settings import Settings

_READING = frozenset(("GET", "HEAD"))
_FORWARDED = frozenset((b"x-forwarded-for", b"forwarded", b"x-real-ip"))
_UNIX_SOCKET = "unix socket"


def admit(scope: types.Scope, needed: Scope) -> None:
    """Let a request in, or not. `scope["app"]` must be the application, as Starlette sets it.

    Raises:
        Problem: KeyRequired, ScopeMissing, NotLocal, CrossSite or RateLimited.
    """
    access: Access = scope["app"].state.access
    access.admit(scope, needed)


class Access:
    """The rules of one deployment.

    Raises:
        KeyFileInvalid: TESSERA_API_KEYS_FILE is not as it must be.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.keys = self._read()
        self._limit = RateLimit(settings.rate_limit, settings.rate_burst, settings.workers)
        self._origins = settings.allowed_origins

    async def follow(self) -> None:
        """Take over the keys of the file whenever it changes, for good; returns at once where there is no file."""
        if self._settings.api_keys_file is not None:
            await follow(self._settings.api_keys_file, self._read, self._use)

    def admit(self, scope: types.Scope, needed: Scope) -> None:
        """Let a request in, or not.

        Raises:
            Problem: KeyRequired, ScopeMissing, NotLocal, CrossSite or RateLimited.
        """
        if not self.keys.grants:
            self._take(self._local_caller(scope), None)
            return
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                grant = self.keys.find(value)
                break
        else:
            grant = None
        if grant is None:
            raise KeyRequired
        if grant.expires is not None and grant.expires <= time.time():
            raise KeyRequired("The key has expired; send another one in the X-API-Key header.")
        if needed not in grant.scopes:
            raise ScopeMissing(f"This call needs the scope {needed!r}, which the key does not have.")
        self._take(grant.digest, grant.rate)

    def _take(self, caller: str | bytes, rate: float | None) -> None:
        if wait := self._limit.take(caller, rate):
            raise RateLimited(wait_s=math.ceil(wait), allowed=int(self._limit.size(rate)))

    def _local_caller(self, scope: types.Scope) -> str:
        """Who asks where there are no keys: somebody on this machine, and no web page of somebody else's."""
        host = origin = None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name in _FORWARDED:
                raise NotLocal("The request came through a proxy, and behind one API keys are needed.")
        client, server = scope.get("client"), scope.get("server")
        if client is None:
            # Of a Unix socket the server has a path and no port. A TCP peer that has gone already has no address.
            if server is not None and server[1] is not None:
                raise NotLocal
            caller = _UNIX_SOCKET
        else:
            caller = client[0]
            # The name is what a page that has another name rebound to this machine cannot choose.
            if not _is_local(caller) or host is None or not _names_this_machine(host):
                raise NotLocal
        if origin is not None and scope["method"] not in _READING and not self._is_own(origin, host):
            raise CrossSite
        return caller

    def _is_own(self, origin: bytes, host: bytes | None) -> bool:
        text = origin.decode("latin-1").lower()
        own = text.partition("://")[2]
        return text in self._origins or (host is not None and own == host.decode("latin-1").lower())

    def _read(self) -> ApiKeys:
        return read_keys(self._settings.api_keys, self._settings.api_keys_file)

    def _use(self, keys: ApiKeys) -> None:
        self.keys = keys


_is_local = lru_cache(maxsize=1024)(is_local)


@lru_cache(maxsize=256)
def _names_this_machine(host: bytes) -> bool:
    name = host.decode("latin-1").lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return name == "localhost" or name.endswith(".localhost") or is_local(name)
