"""Looks at, plants and removes cached entries in a Redis, beside every code that is under test."""

from collections.abc import Iterable
from typing import Any

from model_store.cache_keys import EntryLayout, Keys


def packed_entry(redis: Any, keys: Keys, layout: EntryLayout, user: str) -> bytes | None:
    """The bytes of a user's entry, None where there is none."""
    packed: bytes | None = redis.hget(keys.bucket_of(layout, user), user)
    return packed


def put_packed(redis: Any, keys: Keys, layout: EntryLayout, user: str, packed: bytes) -> None:
    """Store bytes as a user's entry."""
    redis.hset(keys.bucket_of(layout, user), user, packed)
    redis.hset(keys.caches, layout.cache_version, layout.buckets)


def drop_entries(redis: Any, keys: Keys, layout: EntryLayout, users: Iterable[str]) -> None:
    """Delete the entries of these users."""
    for user in users:
        redis.hdel(keys.bucket_of(layout, user), user)


def cached_users(redis: Any, keys: Keys, layout: EntryLayout) -> set[str]:
    """Everyone with an entry, each found in the bucket where it belongs."""
    found = set()
    for number in range(layout.buckets):
        users = {user.decode() for user in redis.hkeys(keys.bucket(layout, number))}
        assert all(layout.bucket_of(user) == number for user in users)
        found |= users
    return found
