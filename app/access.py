"""Who may call: one check, for routes with FastAPI's dependencies and for those without."""

from starlette.types import Scope as AsgiScope

from app.api_keys import ApiKeys, Scope, is_local
from app.problems import KeyRequired, NotLocal, ScopeMissing

KEY_HEADER = "X-API-Key"
_RAW_KEY_HEADER = KEY_HEADER.lower().encode()


def admit(scope: AsgiScope, needed: Scope) -> None:
    """Let a request pass.

    Args:
        scope: the request's; its application has the keys in `state.keys`.
        needed: what its key must be good for.

    Raises:
        NotLocal: no keys are configured and the client is on another machine.
        KeyRequired: it has no key that is known.
        ScopeMissing: its key is known but not good for this.
    """
    keys: ApiKeys = scope["app"].state.keys
    if not keys.grants:
        client = scope.get("client")
        if not is_local(client[0] if client else None):
            raise NotLocal
        return
    key = next((value for name, value in scope["headers"] if name == _RAW_KEY_HEADER), b"")
    scopes = keys.scopes_of(key.decode("latin-1")) if key else None
    if scopes is None:
        raise KeyRequired
    if needed not in scopes:
        raise ScopeMissing(f"This call needs the scope {needed!r}, which the key does not have.")
