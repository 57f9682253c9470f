"""Lists of items, and the model versions they come from."""

from typing import Annotated

from fastapi import Depends, Query

from app.dependencies import CurrentModel, CurrentServices, NoQuery, PathId, Services, require
from app.item_lists import latest_items, popular_items, similar_items
from app.json_response import Json
from app.popular_windows import WindowUnavailable
from app.problems import ItemNotFound, WindowNotCounted, responses
from app.published_models import published_models
from app.recommendation_cache import CacheUnavailable
from app.routers import Router
from app.schemas import (
    ItemListParameters,
    LatestAnswer,
    ModelsAnswer,
    PopularAnswer,
    PopularParameters,
    SimilarAnswer,
)
from app.served_model import ServedModel
from model_store.errors import UnknownItem

router = Router(tags=["items"], dependencies=[Depends(require("read"))])


@router.get("/similar/{item_id:path}", responses={200: {"model": SimilarAnswer}, **responses(ItemNotFound)})
async def similar(
    item_id: PathId, asked: Annotated[ItemListParameters, Query()], model: CurrentModel, services: CurrentServices
) -> Json:
    """Items near an item, the nearest first. A hidden item is not shown, but others near it are; a deleted one is a
    404.
    """
    item = similar_to(item_id, model, services)
    hidden, degraded = await hidden_from(asked.user_id, asked.exclude, model, services)
    items = await similar_items(model, item, asked.n, asked.offset, asked.item_filter(), hidden)
    return Json({"item_id": item_id, "items": items, "model_version": model.version, "degraded": degraded})


@router.get("/popular", responses={200: {"model": PopularAnswer}, **responses(WindowNotCounted)})
async def popular(asked: Annotated[PopularParameters, Query()], model: CurrentModel, services: CurrentServices) -> Json:
    """The most popular items that pass the filter: of all time, or by the events of a window, which may be fewer.

    With a window, while Redis is away, the last counts go on (`age_s`); where there are none yet this is a 503.
    """
    ranking, age_s = model.popular, 0.0
    if asked.window is not None:
        try:
            ranking, age_s = await services.popular_windows.ranking(model, asked.window)
        except WindowUnavailable:
            raise WindowNotCounted from None
    hidden, degraded = await hidden_from(asked.user_id, asked.exclude, model, services)
    items = await popular_items(model, ranking, asked.n, asked.offset, asked.item_filter(), hidden)
    return Json(
        {
            "items": items,
            "model_version": model.version,
            "degraded": degraded,
            "window": asked.window,
            "age_s": round(age_s, 3),
        }
    )


@router.get("/latest", responses={200: {"model": LatestAnswer}, **responses()})
async def latest(asked: Annotated[ItemListParameters, Query()], model: CurrentModel, services: CurrentServices) -> Json:
    """The newest items that pass the filter: by their attribute `timestamp` or `created_at`, else the last first."""
    hidden, degraded = await hidden_from(asked.user_id, asked.exclude, model, services)
    items = await latest_items(model, asked.n, asked.offset, asked.item_filter(), hidden)
    return Json({"items": items, "model_version": model.version, "degraded": degraded})


def similar_to(item_id: str, model: ServedModel, services: Services) -> int:
    """Index of the item that others are to be near to.

    Raises:
        ItemNotFound: the served catalogue does not have it, or it was deleted.
    """
    if services.overlay.is_deleted(item_id):
        raise ItemNotFound
    try:
        return model.catalog.index_of(item_id)
    except UnknownItem:
        raise ItemNotFound from None


async def hidden_from(
    user_id: str | None, exclude: tuple[str, ...], model: ServedModel, services: Services
) -> tuple[tuple[str, ...], bool]:
    """Ids of items not to show, and whether what the user knows is missing among them."""
    if user_id is None:
        return exclude, False
    try:
        state = await services.cache.read(model.entry_layout, user_id)
    except CacheUnavailable:
        return exclude, True
    return (*exclude, *state.history, *state.withheld), False


@router.get("/models", responses={200: {"model": ModelsAnswer}, **responses()})
async def models(query: NoQuery, services: CurrentServices) -> Json:
    """The published model versions."""
    return Json((await published_models(services.store, services.active.served.version)).model_dump())
