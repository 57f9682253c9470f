"""What the dashboard reads."""

import numpy as np
from fastapi import Depends

from app.admin_schemas import DescribedItem, LookupAnswer, LookupBody, OverviewAnswer
from app.dependencies import CurrentModel, CurrentServices, NoQuery, require
from app.json_response import Json
from app.overview import overview
from app.problems import responses
from app.routers import Router
from app.routes.health import readiness

router = Router(tags=["overview"], dependencies=[Depends(require("read"))], responses=responses())


@router.get("/overview", responses={200: {"model": OverviewAnswer}})
async def show_overview(query: NoQuery, services: CurrentServices) -> Json:
    """Traffic, cache, refreshes and dependencies at a glance, the same from every worker."""
    ready = (await readiness(services)).model_dump(include={"status", "dependencies"})
    return Json({**await overview(services), **ready})


@router.post("/items/lookup", responses={200: {"model": LookupAnswer}})
async def look_up_items(asked: LookupBody, query: NoQuery, model: CurrentModel) -> Json:
    """Title, categories, price and code of up to 200 items."""
    wanted = tuple(dict.fromkeys(asked.ids))
    indices, catalog = model.indices_of(wanted), model.catalog
    items = [
        DescribedItem(
            item_id=catalog.item_ids[item],
            title=catalog.titles[item],
            categories=list(catalog.categories[item]),
            price=None if np.isnan(catalog.prices[item]) else round(float(catalog.prices[item]), 2),
            available=bool(catalog.available[item]),
            code=code,
        )
        for item, code in zip(indices, model.codes_of(indices), strict=True)
    ]
    unknown = [item_id for item_id in wanted if item_id not in catalog]
    return Json(LookupAnswer(items=items, unknown=unknown, model_version=model.version).model_dump())
