"""Items that a user does not want to see again."""

from fastapi import Depends

from app.dependencies import CurrentModel, CurrentServices, NoQuery, PathId, require
from app.event_problems import TooManyBlocks
from app.json_response import Json
from app.problems import StorageUnavailable, responses
from app.recommendation_cache import CacheUnavailable
from app.routers import Router
from app.served_model import ServedModel
from app.withheld_items import Blocks, BlocksChange

router = Router(tags=["events"], responses=responses(StorageUnavailable))


@router.get("/users/{user_id:path}/blocks", dependencies=[Depends(require("read"))], responses={200: {"model": Blocks}})
async def show_blocks(user_id: PathId, query: NoQuery, model: CurrentModel, services: CurrentServices) -> Json:
    """Items that a user is never shown. Empty for a user nobody has heard of."""
    try:
        items = await services.withheld.blocked(user_id)
    except CacheUnavailable:
        raise StorageUnavailable from None
    return _answer(user_id, items, model)


@router.patch(
    "/users/{user_id:path}/blocks",
    dependencies=[Depends(require("write"))],
    responses={200: {"model": Blocks}, **responses(TooManyBlocks, StorageUnavailable)},
)
async def change_blocks(
    user_id: PathId, change: BlocksChange, query: NoQuery, model: CurrentModel, services: CurrentServices
) -> Json:
    """Block items for a user, or unblock them; holds for every list from the next request on.

    Ids that the catalogue does not have are taken all the same, and listed under `unknown`. Sending it again changes
    nothing.
    """
    try:
        items = await services.withheld.change_blocks(user_id, change.block, change.unblock)
    except CacheUnavailable:
        raise StorageUnavailable from None
    return _answer(user_id, items, model)


def _answer(user_id: str, items: list[str], model: ServedModel) -> Json:
    unknown = [item_id for item_id in items if item_id not in model.catalog]
    return Json(Blocks(user_id=user_id, items=items, unknown=unknown).model_dump())
