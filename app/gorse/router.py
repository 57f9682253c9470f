"""The API of Gorse 0.5 over this service: the same functions, keys and guarantees under other names."""

from fastapi import APIRouter

from app.gorse import health_routes, item_routes, list_routes, user_routes

router = APIRouter(prefix="/api", tags=["gorse"])
for _routes in (list_routes, item_routes, user_routes, health_routes):
    router.include_router(_routes.router)
