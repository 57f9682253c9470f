import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from model_store.catalog import SCHEMA, Catalog
from model_store.errors import BundleCorrupt, UnknownItem


def catalog_of(
    item_ids: tuple[str, ...],
    *,
    title: str = "Tent",
    text: str = "",
    categories: tuple[str, ...] = (),
    attributes: dict[str, str] | None = None,
) -> Catalog:
    count = len(item_ids)
    return Catalog(
        item_ids=item_ids,
        titles=(title,) * count,
        texts=(text,) * count,
        categories=(categories,) * count,
        prices=np.full(count, np.nan, np.float32),
        attributes=tuple(dict(attributes or {}) for _ in range(count)),
        available=np.ones(count, np.bool_),
    )


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    item_ids = draw(st.lists(st.text(min_size=1), unique=True, max_size=6))
    count = len(item_ids)

    def each(strategy: st.SearchStrategy) -> tuple:
        return tuple(draw(st.lists(strategy, min_size=count, max_size=count)))

    return Catalog(
        item_ids=tuple(item_ids),
        titles=each(st.text()),
        texts=each(st.text()),
        categories=each(st.lists(st.text(), max_size=3).map(tuple)),
        prices=np.array(each(st.just(np.nan) | st.floats(0, 1e6, width=32)), np.float32),
        attributes=each(st.dictionaries(st.text(), st.text(), max_size=2)),
        available=np.array(each(st.booleans()), np.bool_),
    )


@given(catalogs())
# The first table may import pandas.
@hypothesis_settings(deadline=None)
def test_a_catalogue_survives_its_table(catalog: Catalog) -> None:
    again = Catalog.from_table(catalog.to_table())
    assert (again.item_ids, again.titles, again.texts) == (catalog.item_ids, catalog.titles, catalog.texts)
    assert (again.categories, again.attributes) == (catalog.categories, catalog.attributes)
    np.testing.assert_array_equal(again.prices, catalog.prices)
    np.testing.assert_array_equal(again.available, catalog.available)
    assert (again.prices.dtype, again.available.dtype) == (np.float32, np.bool_)


def test_a_catalogue_survives_a_parquet_file(tmp_path: Path) -> None:
    catalog = catalog_of(("a", "b"), categories=("Camping", "Tents"), attributes={"brand": "Kestrel"})
    pyarrow.parquet.write_table(catalog.to_table(), tmp_path / "items.parquet")
    again = Catalog.from_table(pyarrow.parquet.read_table(tmp_path / "items.parquet"))
    assert again.to_table().equals(catalog.to_table())


def test_the_columns_are_those_of_the_bundle_format() -> None:
    assert SCHEMA.names == ["item_id", "title", "text", "categories", "price", "attributes", "available"]
    row = catalog_of(("a",), attributes={"brand": "Kestrel"}).to_table().to_pylist()[0]
    assert row["price"] is None
    assert json.loads(row["attributes"]) == {"brand": "Kestrel"}


def test_items_are_found_by_id_and_unknown_ones_are_named() -> None:
    catalog = catalog_of(("a", "b"))
    assert catalog.index_of("b") == 1
    assert "a" in catalog
    assert "c" not in catalog
    assert len(catalog) == 2
    with pytest.raises(UnknownItem, match="'c'"):
        catalog.index_of("c")


def test_a_document_holds_title_brand_categories_and_description_in_this_order() -> None:
    full = catalog_of(("a",), text="Light.", categories=("Camping", "Tents"), attributes={"brand": "Kestrel"})
    assert full.document(0) == "Tent. Kestrel. Camping, Tents. Light"
    assert catalog_of(("a",)).document(0) == "Tent"


def test_fields_of_different_length_and_repeated_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        catalog_of(("a", "a"))
    with pytest.raises(ValueError, match="length"):
        Catalog(("a",), (), (), (), np.empty(0, np.float32), (), np.empty(0, np.bool_))


def test_a_table_that_is_no_catalogue_is_corrupt() -> None:
    table = catalog_of(("a", "b")).to_table()
    with pytest.raises(BundleCorrupt, match="no column price"):
        Catalog.from_table(table.drop_columns(["price"]))
    bad_json = table.set_column(5, "attributes", pa.array(["{", "{}"]))
    bad_type = table.set_column(4, "price", pa.array([["a"], ["b"]]))
    null_id = table.set_column(0, "item_id", pa.array(["a", None]))
    repeated = table.set_column(0, "item_id", pa.array(["a", "a"]))
    for broken in (bad_json, bad_type, null_id, repeated):
        with pytest.raises(BundleCorrupt):
            Catalog.from_table(broken)
