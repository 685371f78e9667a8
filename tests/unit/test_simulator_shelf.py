from dataclasses import dataclass

import pytest

from batchflow.simulator.shelf import Shelf


@dataclass(frozen=True)
class Item:
    id: str


@pytest.fixture
def shelf() -> Shelf[Item]:
    shelf: Shelf[Item] = Shelf()
    for name in "abcde":
        shelf.add(Item(name))
    return shelf


def names(
    shelf: Shelf[Item], *, after: str | None = None, limit: int = 10, newest_first: bool = False
) -> tuple[str, bool]:
    page = shelf.page(after=after, limit=limit, newest_first=newest_first)
    return "".join(item.id for item in page.items), page.has_more


def test_a_page_follows_its_cursor_in_both_orders(shelf: Shelf[Item]) -> None:
    assert names(shelf, limit=2) == ("ab", True)
    assert names(shelf, after="b", limit=2) == ("cd", True)
    assert names(shelf, after="d", limit=2) == ("e", False)
    assert names(shelf, limit=3, newest_first=True) == ("edc", True)
    assert names(shelf, after="c", limit=3, newest_first=True) == ("ba", False)


def test_a_full_last_page_has_nothing_behind_it(shelf: Shelf[Item]) -> None:
    assert names(shelf, limit=5) == ("abcde", False)


def test_the_cursor_of_a_removed_item_still_works(shelf: Shelf[Item]) -> None:
    assert shelf.remove("c") == Item("c")
    assert shelf.remove("c") is None
    assert shelf.get("c") is None
    assert names(shelf, after="c") == ("de", False)
    assert len(shelf) == 4


def test_what_is_left_behind_is_not_what_is_kept_out(shelf: Shelf[Item]) -> None:
    page = shelf.page(after=None, limit=2, newest_first=False, keep=lambda item: item.id in "ab")
    assert ([item.id for item in page.items], page.has_more) == (["a", "b"], False)


def test_a_cursor_that_never_was_is_an_error(shelf: Shelf[Item]) -> None:
    with pytest.raises(KeyError):
        names(shelf, after="z")
