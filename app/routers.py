"""Routers whose routes an application takes as they are.

`include_router` would make every route once more, and once more for each router around it; FastAPI's routes take longer
to make than all else at the start.
"""

from functools import partial

from fastapi import APIRouter, FastAPI

Router = partial(APIRouter, generate_unique_id_function=lambda route: route.name)
"""An APIRouter whose operations are called what their functions are."""


def take_routes(app: FastAPI, router: APIRouter) -> None:
    """Have an application answer a router's routes."""
    app.router.routes.extend(router.routes)
