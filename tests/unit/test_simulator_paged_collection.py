from dataclasses import dataclass

import pytest

from batchflow.simulator.engine.paged_collection import PagedCollection


@dataclass(frozen=True)
class Item:
    id: str


@pytest.fixture
def collection() -> PagedCollection[Item]:
    collection: PagedCollection[Item] = PagedCollection()
    for name in "abcde":
        collection.add(Item(name))
    return collection


def names(
    collection: PagedCollection[Item],
    *,
    after: str | None = None,
    limit: int = 10,
    newest_first: bool = False,
) -> tuple[str, bool]:
    page = collection.page(after=after, limit=limit, newest_first=newest_first)
    return "".join(item.id for item in page.items), page.has_more


def test_a_page_follows_its_cursor_in_both_orders(collection: PagedCollection[Item]) -> None:
    assert names(collection, limit=2) == ("ab", True)
    assert names(collection, after="b", limit=2) == ("cd", True)
    assert names(collection, after="d", limit=2) == ("e", False)
    assert names(collection, limit=3, newest_first=True) == ("edc", True)
    assert names(collection, after="c", limit=3, newest_first=True) == ("ba", False)


def test_a_full_last_page_has_nothing_behind_it(collection: PagedCollection[Item]) -> None:
    assert names(collection, limit=5) == ("abcde", False)


def test_the_cursor_of_a_removed_item_still_works(collection: PagedCollection[Item]) -> None:
    assert collection.remove("c") == Item("c")
    assert collection.remove("c") is None
    assert collection.get("c") is None
    assert names(collection, after="c") == ("de", False)
    assert len(collection) == 4


def test_what_is_left_behind_is_not_what_is_kept_out(collection: PagedCollection[Item]) -> None:
    page = collection.page(
        after=None, limit=2, newest_first=False, keep=lambda item: item.id in "ab"
    )
    assert ([item.id for item in page.items], page.has_more) == (["a", "b"], False)


def test_a_cursor_that_never_was_is_an_error(collection: PagedCollection[Item]) -> None:
    with pytest.raises(KeyError):
        names(collection, after="z")
