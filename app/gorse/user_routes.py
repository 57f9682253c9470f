"""Gorse's calls about users and their feedback, by the functions of our own `/events` and `/users`.

Kept are the items of a history in their order, and which items were read. What kind of event it was and when is not, so
calls that would have to tell are refused.
"""

from hashlib import blake2b
from typing import Annotated, Any

from fastapi import Depends, Query, Response

from app.dependencies import CurrentModel, CurrentServices, NoQuery, PathId, Services, require
from app.event_problems import TooManyEvents
from app.event_schemas import Event
from app.gorse.addresses import PREFIX, TAGS
from app.gorse.answers import row_affected
from app.gorse.problems import NotStored
from app.gorse.schemas import (
    Feedback,
    Feedbacks,
    PageParameters,
    RejectedRow,
    RowAffected,
    UserAnswer,
    UserBody,
    Users,
)
from app.json_response import Json
from app.problems import ItemNotFound, StorageUnavailable, responses
from app.routers import Router
from app.routes.events import forget, record
from app.served_model import ServedModel

router = Router(prefix=PREFIX, tags=TAGS)

_READ = [Depends(require("read"))]
_WRITE = [Depends(require("write"))]
_RECORDED = {200: {"model": RowAffected}, **responses(ItemNotFound, TooManyEvents, StorageUnavailable)}
_ROWS = {200: {"model": RowAffected}, **responses()}
_REFUSED: dict[str, Any] = {
    "status_code": NotStored.status,
    "response_class": Response,
    "response_description": NotStored.title,
    "responses": responses(NotStored),
}
_NO_FEEDBACK = (
    "The types and times of events are not kept, so feedback cannot be listed; GET /users/{user_id}/history tells the "
    "items of a user."
)
_NO_DELETE = "A history is kept as a whole: DELETE /api/user/{user_id} forgets all of it, one item of it cannot be."
_NO_USERS = "Users are known by their events alone, and are not listed."

Page = Annotated[PageParameters, Query()]


@router.post("/feedback", dependencies=_WRITE, responses=_RECORDED)
async def gorse_insert_feedback(
    feedback: Feedbacks, query: NoQuery, model: CurrentModel, services: CurrentServices
) -> Json:
    """Record feedback: `POST /events` in Gorse's names.

    The same type, item and time of a user count once within a day. Feedback of a read type (`read`) is withheld from
    the user, everything else becomes history. Rows with an item that nobody knows are listed under `Rejected`; if all
    are, this is a 404.
    """
    return await _record(feedback, model, services)


@router.put("/feedback", dependencies=_WRITE, responses=_RECORDED)
async def gorse_overwrite_feedback(
    feedback: Feedbacks, query: NoQuery, model: CurrentModel, services: CurrentServices
) -> Json:
    """Record feedback; the same as a POST, because nothing is kept that could be overwritten."""
    return await _record(feedback, model, services)


@router.get("/feedback", dependencies=_READ, **_REFUSED)
async def gorse_get_feedback(asked: Page) -> Response:
    """Refused: types and times of events are not kept."""
    raise NotStored(_NO_FEEDBACK)


@router.get("/feedback/{user_id}/{item_id}", dependencies=_READ, **_REFUSED)
async def gorse_get_feedback_of_item(user_id: PathId, item_id: PathId, query: NoQuery) -> Response:
    """Refused: types and times of events are not kept."""
    raise NotStored(_NO_FEEDBACK)


@router.delete("/feedback/{user_id}/{item_id}", dependencies=_WRITE, **_REFUSED)
async def gorse_delete_feedback(user_id: PathId, item_id: PathId, query: NoQuery) -> Response:
    """Refused: a history is forgotten as a whole."""
    raise NotStored(_NO_DELETE)


@router.get("/user/{user_id}/feedback", dependencies=_READ, **_REFUSED)
async def gorse_get_feedback_of_user(user_id: PathId, asked: Page) -> Response:
    """Refused: types and times of events are not kept."""
    raise NotStored(_NO_FEEDBACK)


@router.get("/user/{user_id}/feedback/{feedback_type}", dependencies=_READ, **_REFUSED)
async def gorse_get_typed_feedback_of_user(user_id: PathId, feedback_type: PathId, asked: Page) -> Response:
    """Refused: types and times of events are not kept."""
    raise NotStored(_NO_FEEDBACK)


@router.post("/user", dependencies=_WRITE, responses=_ROWS)
async def gorse_insert_user(user: UserBody, query: NoQuery) -> Json:
    """Take note of nothing: users are there by their events. Labels are not kept."""
    return row_affected(1)


@router.post("/users", dependencies=_WRITE, responses=_ROWS)
async def gorse_insert_users(users: Users, query: NoQuery) -> Json:
    """Take note of nothing: users are there by their events. Labels are not kept."""
    return row_affected(len(users))


@router.get("/users", dependencies=_READ, **_REFUSED)
async def gorse_get_users(asked: Page) -> Response:
    """Refused: users are known by their events alone."""
    raise NotStored(_NO_USERS)


@router.get("/user/{user_id}", dependencies=_READ, responses={200: {"model": UserAnswer}, **responses()})
async def gorse_get_user(user_id: PathId, query: NoQuery) -> Json:
    """A user, of whom nothing but the id is told: every id is a user, with events or before them."""
    return Json(UserAnswer(user_id=user_id).model_dump(by_alias=True))


@router.delete(
    "/user/{user_id}", dependencies=_WRITE, responses={200: {"model": RowAffected}, **responses(StorageUnavailable)}
)
async def gorse_delete_user(user_id: PathId, query: NoQuery, services: CurrentServices) -> Json:
    """Forget a user, as `DELETE /users/{user_id}` does. One of whom nothing is known is 0 rows."""
    return row_affected(int(await forget(user_id, services)))


async def _record(feedback: Feedbacks, model: ServedModel, services: Services) -> Json:
    recorded = await record([_event(one) for one in feedback], model, services)
    if not recorded.accepted:
        raise ItemNotFound("No row has an item that the catalogue knows; nothing was recorded.")
    rejected = [RejectedRow(row=row, item_id=feedback[row].item_id, reason="unknown_item") for row in recorded.unknown]
    return row_affected(recorded.accepted, rejected)


def _event(feedback: Feedback) -> Event:
    return Event(
        user_id=feedback.user_id,
        item_id=feedback.item_id,
        type=feedback.feedback_type,
        id=_name(feedback),
        timestamp=feedback.timestamp,
    )


def _name(feedback: Feedback) -> str | None:
    """By what a repetition is known. Without a time nobody can tell it from another event."""
    if feedback.timestamp is None:
        return None
    said = "\0".join((feedback.feedback_type, feedback.item_id, repr(feedback.seconds())))
    return blake2b(said.encode(), digest_size=16).hexdigest()
