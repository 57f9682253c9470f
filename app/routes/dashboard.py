"""The dashboard's files. They hold no data, so they need no key; the page asks the API, with one."""

import hashlib
from importlib.resources import files

from fastapi import Request, Response

from app.routers import Router

router = Router(include_in_schema=False)

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    # Asked for again each time, and sent only when it has changed.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _serve(path: str, name: str) -> None:
    body = (files("app") / "dashboard" / name).read_bytes()
    kind = _TYPES[name[name.rindex(".") :]]
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'

    async def send(request: Request) -> Response:
        headers = {**_HEADERS, "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=kind)

    router.add_api_route(path, send, methods=["GET"])


_serve("/", "index.html")
for _file in files("app").joinpath("dashboard").iterdir():
    if _file.name != "index.html" and "." in _file.name and _file.name[_file.name.rindex(".") :] in _TYPES:
        _serve(f"/dashboard/{_file.name}", _file.name)
