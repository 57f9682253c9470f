"""Why an item that somebody expected is not recommended."""

from fastapi import Depends

from app.dependencies import CurrentModel, CurrentServices, NoQuery, require
from app.json_response import Json
from app.problems import ItemNotFound, StorageUnavailable, responses
from app.recommendation import Wanted
from app.recommendation_cache import CacheUnavailable
from app.routers import Router
from app.schemas import WhyNotBody
from app.why_not import WhyNot, why_not
from model_store.errors import UnknownItem

router = Router(tags=["recommendations"], dependencies=[Depends(require("read"))])


@router.post("/explain", responses={200: {"model": WhyNot}, **responses(ItemNotFound, StorageUnavailable)})
async def explain(asked: WhyNotBody, query: NoQuery, model: CurrentModel, services: CurrentServices) -> Json:
    """Why an item is in a user's list, or is not: the rules that keep it out, or how far it is from the last item."""
    try:
        item = model.catalog.index_of(asked.item_id)
    except UnknownItem:
        raise ItemNotFound from None
    wanted = Wanted(user_id=asked.user_id, n=asked.n, item_filter=asked.item_filter(), exclude=asked.exclude)
    try:
        return Json(await why_not(services, model, item, wanted))
    except CacheUnavailable:
        raise StorageUnavailable("Redis cannot be reached, and the user's history is in it; try again.") from None
