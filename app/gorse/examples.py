"""What requests and answers look like in Gorse's names, for the OpenAPI document."""

from collections.abc import Mapping
from typing import Any

_FEEDBACK = {
    "FeedbackType": "like",
    "UserId": "user-17",
    "ItemId": "item-204",
    "Timestamp": "2026-01-02T08:05:00Z",
    "Value": 1,
}
_ITEM = {
    "ItemId": "item-204",
    "IsHidden": False,
    "Categories": ["garden"],
    "Timestamp": "2026-01-02T08:00:00Z",
    "Labels": {"brand": "Lux", "colours": ["red", "blue"]},
    "Comment": "Garden lamp\nRuns on sunlight.",
}
_USER = {"UserId": "user-17", "Labels": None, "Comment": ""}
_SCORES = [{"Id": "item-204", "Score": 0.87}]
_ONE_ROW = {"RowAffected": 1}
_HEALTH = {
    "Ready": True,
    "DataStoreConnected": True,
    "CacheStoreConnected": True,
    "DataStoreError": None,
    "CacheStoreError": None,
}

PATHS: Mapping[str, str] = {
    "category": "garden",
    "feedback_type": "like",
    "leaderboard": "popular",
    "recommender": "neighbors",
}
BODIES: Mapping[str, Any] = {
    "gorse_recommend_to_session": [_FEEDBACK],
    "gorse_recommend_to_session_in_category": [_FEEDBACK],
    "gorse_insert_item": _ITEM,
    "gorse_insert_items": [_ITEM],
    "gorse_update_item": {"IsHidden": True, "Categories": None, "Timestamp": None, "Labels": None, "Comment": None},
    "gorse_insert_feedback": [_FEEDBACK],
    "gorse_overwrite_feedback": [_FEEDBACK],
    "gorse_insert_user": _USER,
    "gorse_insert_users": [_USER],
}
ANSWERS: Mapping[str, Any] = {
    "gorse_recommend": ["item-204"],
    "gorse_recommend_in_category": ["item-204"],
    **dict.fromkeys(
        (
            "gorse_recommend_to_session",
            "gorse_recommend_to_session_in_category",
            "gorse_popular",
            "gorse_popular_in_category",
            "gorse_latest",
            "gorse_latest_in_category",
            "gorse_non_personalized",
            "gorse_neighbors",
            "gorse_neighbors_in_category",
            "gorse_item_to_item",
        ),
        _SCORES,
    ),
    **dict.fromkeys(
        (
            "gorse_insert_item",
            "gorse_insert_items",
            "gorse_update_item",
            "gorse_delete_item",
            "gorse_insert_item_category",
            "gorse_delete_item_category",
            "gorse_insert_feedback",
            "gorse_overwrite_feedback",
            "gorse_insert_user",
            "gorse_insert_users",
            "gorse_delete_user",
        ),
        _ONE_ROW,
    ),
    "gorse_get_items": {"Cursor": "item-204", "Items": [_ITEM]},
    "gorse_get_item": _ITEM,
    "gorse_get_user": _USER,
    "gorse_live": _HEALTH,
    "gorse_ready": _HEALTH,
}
