import json
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.codes.code_report import categories_of, code_report, majority_votes, neighbours_kept, write_code_report
from offline.codes.quantization import Quantization, collision_report, level_sizes
from tests.offline.codes.made_items import made_catalog


def quantized(codes, vectors=None, raw=None):
    codes = np.array(codes, dtype=np.uint8)
    codebooks = np.random.default_rng(0).normal(size=(4, 256, 3)).astype(np.float32)
    if vectors is None:
        vectors = codebooks[np.arange(4), codes].sum(axis=1)
    raw = codes if raw is None else np.array(raw, dtype=np.uint8)
    figures = {"kind": "kmeans", "input": "joint", "unexplained_variance": 0.25}
    return Quantization(codes, codebooks, vectors, {**figures, **collision_report(raw, codes, 256, 3)})


def shop(per_category=12):
    """Three categories, one a first code; brands that codes know nothing of; item 5 sells best."""
    names = [name for name in ("Pens", "Paper", "Ink") for _ in range(per_category)]
    count = len(names)
    codes = [(number // per_category, number, 0, 0) for number in range(count)]
    catalog = made_catalog(
        [(name,) for name in names],
        brands=[f"Brand {number % 2}" for number in range(count)],
        titles=[f"<b>Title</b> & {number}" for number in range(count)],
    )
    popularity = np.arange(count, dtype=np.float32)[::-1].copy()
    popularity[5] = 1000
    return catalog, popularity, quantized(codes)


def test_codes_that_say_the_category_predict_it_and_those_that_do_not_do_no_better_than_the_baseline():
    report = code_report(*shop())
    assert report["category"]["by_prefix_length"][0] == {
        "length": 1,
        "accuracy": 1.0,
        "share_with_company": 1.0,
        "accuracy_with_company": 1.0,
    }
    assert report["category"]["majority_baseline"] == pytest.approx(1 / 3)
    assert report["category"]["classes"] == 3
    # Within a category six of twelve are of a brand; without the item itself, fewer than of the other brand.
    assert report["brand"]["by_prefix_length"][0]["accuracy"] == 0
    assert report["brand"]["majority_baseline"] == 0.5


def test_an_item_alone_with_its_prefix_is_answered_by_a_shorter_one():
    lengths = code_report(*shop())["category"]["by_prefix_length"]
    assert [row["share_with_company"] for row in lengths] == [1, 0, 0, 0]
    assert [row["accuracy"] for row in lengths] == [1, 1, 1, 1]
    assert lengths[1]["accuracy_with_company"] is None


def test_an_item_whose_first_code_is_its_own_is_answered_by_the_most_frequent_class():
    catalog = made_catalog([("Pens",)] * 3 + [("Ink",)])
    report = code_report(catalog, np.ones(4, np.float32), quantized([(n, 0, 0, 0) for n in range(4)]))
    assert report["category"]["by_prefix_length"][0]["accuracy"] == 0.75


def test_collisions_and_use_of_entries_are_counted():
    codes = [(0, 1, 0, 0), (0, 1, 0, 1), (0, 2, 0, 0), (1, 3, 0, 0)]
    raw = [(0, 1, 0, 0), (0, 1, 0, 0), (0, 1, 0, 0), (1, 3, 0, 0)]
    report = code_report(made_catalog([()] * 4), np.ones(4, np.float32), quantized(codes, raw=raw))
    assert report["collisions"] == {
        "share_of_items_before": 0.75,
        "largest_bucket_before": 3,
        "items_moved": 3,
        "share_of_items_after": 0.0,
        "largest_bucket_after": 1,
    }
    assert [level["used"] for level in report["levels"]] == [2, 3, 1, 2]
    assert [level["distinct_prefixes"] for level in report["levels"]] == [2, 3, 3, 4]
    assert report["levels"][0]["perplexity"] == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))
    assert report["levels"][2]["perplexity"] == pytest.approx(1)


def test_the_levels_say_how_many_items_an_entry_has_and_where_there_is_nothing_to_decide():
    levels = code_report(*shop())["levels"]
    assert [level["items_per_entry"] for level in levels] == [[12, 12], [1, 1], [36, 36], [36, 36]]
    assert [level["single_child_nodes"] for level in levels] == [0, 0, 1, 1]
    some = level_sizes(np.array([(0, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 0), (1, 7, 2, 2)], np.uint8))
    assert some["items_per_entry"] == [[1, 3], [1, 2], [1, 3], [1, 2]]
    assert some["single_child_nodes"] == [0, 0.5, 1, pytest.approx(2 / 3)]


def test_popular_items_are_shown_with_those_that_share_most_of_their_code():
    catalog, popularity, quantization = shop()
    shown = code_report(catalog, popularity, quantization)["popular_items"]
    assert [item["item_id"] for item in shown] == ["item-5", *(f"item-{n}" for n in (0, 1, 2, 3, 4, 6, 7, 8, 9))]
    assert shown[0]["code"] == "<u_0><v_5><x_0><y_0>"
    assert shown[0]["popularity"] == 1000
    assert [(other["item_id"], other["shared_levels"]) for other in shown[0]["relatives"]] == [
        ("item-0", 1),
        ("item-1", 1),
    ]


def test_an_items_category_is_its_most_specific_one_that_enough_items_have():
    names = [("All", "Pens", "Red pens")] * 9 + [("All", "Pens")] + [("All", "Rare")] + [("Odd",)] + [()]
    assert categories_of(made_catalog(names)) == ["Pens"] * 10 + ["All", "Odd", None]


def test_nearest_items_all_stay_when_quantizing_changes_nothing_and_few_do_when_it_changes_everything():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, 8)).astype(np.float32)
    assert neighbours_kept(vectors, vectors * 2)["recall"] == 1
    lost = neighbours_kept(vectors, random.normal(size=(300, 8)).astype(np.float32))
    assert lost["recall"] == pytest.approx(lost["recall_by_chance"], abs=0.02)
    assert lost["recall_by_chance"] == pytest.approx(10 / 299)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40))
def test_votes_are_those_of_the_others_of_the_group(items):
    groups, classes = np.array(items).T
    credit, company = majority_votes(groups, classes)
    for item in range(len(items)):
        others = [classes[o] for o in range(len(items)) if o != item and groups[o] == groups[item]]
        assert company[item] == bool(others)
        if others:
            votes = np.bincount(others, minlength=4)
            leaders = np.flatnonzero(votes == votes.max())
            assert credit[item] == pytest.approx((classes[item] in leaders) / len(leaders))


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.addresses, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name.endswith(("href", "src"))]

    def handle_data(self, data):
        self.text += data


def test_the_page_stands_alone_and_shows_the_figures(tmp_path):
    write_code_report(tmp_path / "report", *shop())
    text = (tmp_path / "report" / "codes_report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "b"} & set(page.tags)
    assert "http" not in text
    assert "url(" not in text.replace("url(#", "")
    assert all(address.startswith("#") for address in page.addresses)
    assert page.tags.count("svg") == 1
    assert "currentColor" in text
    assert "color-scheme: light dark" in text
    assert "<b>Title</b> & 5" in page.text
    assert "<u_0><v_5><x_0><y_0>" in page.text
    assert "25.0 %" in page.text
    assert "33.3 %" in page.text


def test_the_figures_are_json_beside_the_page_and_the_same_codes_give_the_same_files(tmp_path):
    for folder in ("one", "other"):
        write_code_report(tmp_path / folder, *shop())
    for name in ("codes_report.json", "codes_report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert json.loads((tmp_path / "one" / "codes_report.json").read_text()) == code_report(*shop())


def test_a_catalogue_without_categories_and_brands_has_a_report_too(tmp_path):
    write_code_report(
        tmp_path, made_catalog([()] * 3), np.ones(3, np.float32), quantized([(n, 0, 0, 0) for n in (0, 1, 2)])
    )
    report = json.loads((tmp_path / "codes_report.json").read_text())
    assert report["category"] is None
    assert report["brand"] is None
    assert "No item has one" in (tmp_path / "codes_report.html").read_text()
