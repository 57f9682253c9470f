"""The least a FastAPI service can do: one route, a constant body. The floor that our own service is compared with.

python -m benchmarks.bare_app BODY_BYTES PORT
"""

import sys

import uvicorn
from fastapi import FastAPI, Response


def bare_app(body_bytes: int) -> FastAPI:
    """An application whose every answer is the same JSON string, `body_bytes` long."""
    body = b'"' + b"x" * (body_bytes - 2) + b'"'
    app = FastAPI()

    @app.get("/recommend/{user_id}")
    async def constant(user_id: str) -> Response:
        return Response(body, media_type="application/json")

    return app


if __name__ == "__main__":
    # The options of app.main.serve.
    uvicorn.run(
        bare_app(int(sys.argv[1])), port=int(sys.argv[2]), log_config=None, access_log=False, server_header=False
    )
