"""Changes add up to a record, and folding them again changes nothing."""

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from model_store.item_records import ItemChange, ItemRecord, fold, pack_changes, unpack_changes

PLACES = [
    {"line": line, "code": [1, 2, 3, code], "vector": "", "attempt": attempt}
    for line in ("a", "b")
    for attempt in (0, 1)
    for code in (4, 5)
]
FIELDS = st.fixed_dictionaries(
    {"title": st.sampled_from(["Lamp", "Chair"])},
    optional={
        "price": st.none() | st.sampled_from([1.0, 2.5]),
        "in_stock": st.booleans(),
        "hidden": st.booleans(),
        "categories": st.lists(st.sampled_from(["x", "y"]), max_size=2),
        "place": st.sampled_from(PLACES),
    },
)
CHANGES = st.one_of(
    st.builds(ItemChange, st.just("lamp"), st.just("put"), FIELDS),
    st.builds(ItemChange, st.just("lamp"), st.just("patch"), FIELDS.map(lambda fields: dict(list(fields.items())[1:]))),
    st.builds(ItemChange, st.just("lamp"), st.just("delete"), st.just({})),
)


def folded(changes: list[ItemChange], start: ItemRecord | None = None) -> ItemRecord | None:
    return reduce(fold, changes, start)


@given(changes=st.lists(CHANGES, max_size=8), data=st.data())
def test_folding_again_from_whatever_point_leads_to_the_same_record(
    changes: list[ItemChange], data: st.DataObject
) -> None:
    ahead = data.draw(st.integers(0, len(changes)))
    behind = data.draw(st.integers(0, ahead))
    assert folded(changes[behind:], folded(changes[:ahead])) == folded(changes)


@given(changes=st.lists(CHANGES, max_size=5))
def test_changes_survive_their_bytes(changes: list[ItemChange]) -> None:
    assert unpack_changes(pack_changes(changes)) == changes


def test_an_entry_of_somebody_else_is_no_change() -> None:
    assert unpack_changes({b"x": b"1"}) == []
    assert unpack_changes({b"changes": b"{"}) == []
    assert unpack_changes({b"changes": b"[[1]]"}) == []


def test_put_clears_what_it_does_not_give_and_patch_keeps_it() -> None:
    start = fold(None, ItemChange("lamp", "put", {"title": "Lamp", "price": 3.0, "hidden": True}))
    assert fold(start, ItemChange("lamp", "patch", {"title": "New"}))["price"] == 3.0
    again = fold(start, ItemChange("lamp", "put", {"title": "New"}))
    assert (again["price"], again["hidden"], again["in_stock"]) == (None, False, True)


def test_the_first_place_in_a_line_stays() -> None:
    first = fold(None, ItemChange("lamp", "put", {"title": "Lamp", "place": PLACES[0]}))  # type: ignore[typeddict-item]
    second = fold(first, ItemChange("lamp", "put", {"title": "Lamp", "place": PLACES[1]}))  # type: ignore[typeddict-item]
    gone = fold(second, ItemChange("lamp", "delete", {}))
    assert second["place"] == gone["place"] == PLACES[0]
    elsewhere = fold(gone, ItemChange("lamp", "patch", {"place": PLACES[4]}))  # type: ignore[typeddict-item]
    assert elsewhere["place"] == PLACES[4]
    later = fold(gone, ItemChange("lamp", "patch", {"place": PLACES[3]}))  # type: ignore[typeddict-item]
    assert later["place"] == PLACES[3]
