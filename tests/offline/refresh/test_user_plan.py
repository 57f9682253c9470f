"""A list of users becomes shards that do not depend on who else is on it."""

from hypothesis import given
from hypothesis import strategies as st

from model_store.cache_keys import EntryLayout
from offline.refresh.user_plan import user_plan

LAYOUT = EntryLayout("v", 64)


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1)), st.integers(1, 80))
def test_every_user_is_in_one_shard_with_all_of_the_bucket(users, buckets_per_shard):
    with user_plan(users, LAYOUT) as plan:
        shards = list(plan.shards(buckets_per_shard))
        assert plan.users == len(set(users))
    assert sorted(user for shard in shards for user in shard.users) == sorted(set(users))
    assert all(LAYOUT.bucket_of(user) in shard.buckets for shard in shards for user in shard.users)
    assert [shard.number for shard in shards] == sorted({shard.number for shard in shards})


def test_a_user_keeps_the_shard_when_others_come():
    few, many = [f"user-{number}" for number in range(30)], [f"user-{number}" for number in range(300)]

    def shard_of(users):
        with user_plan(users, LAYOUT) as plan:
            return {user: shard.number for shard in plan.shards(5) for user in shard.users}

    everyone = shard_of(many)
    assert all(everyone[user] == number for user, number in shard_of(few).items())


def test_shards_hold_about_as_many_users_as_asked_for():
    with user_plan((f"user-{number}" for number in range(6400)), LAYOUT) as plan:
        assert plan.buckets_per_shard(1000) == 10
        sizes = [len(shard.users) for shard in plan.shards(10)]
    assert all(700 < size < 1300 for size in sizes[:-1])


def test_nobody_makes_no_shard():
    with user_plan([], LAYOUT) as plan:
        assert plan.users == 0
        assert list(plan.shards(plan.buckets_per_shard(512))) == []
