"""What goes over the wire between the API and the decoder process for rankers: POST /rank, JSON both ways."""

from pydantic import BaseModel, ConfigDict, Field

MAX_CANDIDATES = 1000
"""Items one request may ask about."""

_MAX_HISTORY = 10_000


class RankerBody(BaseModel):
    """Items to be scored by a version's ranker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(description="the model version whose ranker is meant")
    history: list[int] = Field(max_length=_MAX_HISTORY, description="item indices, oldest first; there may be none")
    candidates: list[int] = Field(min_length=1, max_length=MAX_CANDIDATES, description="item indices")
    user_key: int | None = Field(
        default=None, description="what stands for the user (model_store.rankers.user_keys); null for a session"
    )
    deadline_ms: int = Field(ge=1, description="an answer later than this is of no use")


class RankerReply(BaseModel):
    """Their scores, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    ranker: str = Field(description="the recipe of the ranker")
    scores: list[float] = Field(description="one for each candidate, larger is better")
    rank_ms: float = Field(description="time in the decoder, waiting included")
