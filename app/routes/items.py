"""Lists of items, and the model versions they come from."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app.dependencies import CurrentModel, CurrentServices, NoQuery, PathId, require
from app.item_lists import popular_items, similar_items
from app.json_response import Json
from app.problems import ItemNotFound, responses
from app.published_models import published_models
from app.schemas import ListParameters, ModelsAnswer, PopularAnswer, SimilarAnswer
from model_store.errors import UnknownItem

router = APIRouter(tags=["items"], dependencies=[Depends(require("read"))])


@router.get("/similar/{item_id:path}", responses={200: {"model": SimilarAnswer}, **responses(ItemNotFound)})
async def similar(
    item_id: PathId, asked: Annotated[ListParameters, Query()], model: CurrentModel, services: CurrentServices
) -> Json:
    """Items near an item, the nearest first. A hidden item is not shown, but others near it are; a deleted one is a
    404.
    """
    if services.overlay.is_deleted(item_id):
        raise ItemNotFound
    try:
        item = model.catalog.index_of(item_id)
    except UnknownItem:
        raise ItemNotFound from None
    items = await similar_items(model, item, asked.n, asked.offset, asked.item_filter(), asked.exclude)
    return Json({"item_id": item_id, "items": items, "model_version": model.version})


@router.get("/popular", responses={200: {"model": PopularAnswer}, **responses()})
async def popular(asked: Annotated[ListParameters, Query()], model: CurrentModel) -> Json:
    """The most popular items that pass the filter."""
    items = await popular_items(model, asked.n, asked.offset, asked.item_filter(), asked.exclude)
    return Json({"items": items, "model_version": model.version})


@router.get("/models", responses={200: {"model": ModelsAnswer}, **responses()})
async def models(query: NoQuery, services: CurrentServices) -> Json:
    """The published model versions."""
    return Json((await published_models(services.store, services.active.served.version)).model_dump())
