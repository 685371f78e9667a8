"""An ordered collection with OpenAI's cursor pagination."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class HasId(Protocol):
    """Anything that can be put on a shelf."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=HasId)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list, and whether there is more behind it."""

    items: list[T]
    has_more: bool


class Shelf(Generic[T]):
    """Items in the order of their creation.

    A page costs what it shows, however many items there are. A removed item keeps its place, so
    that a client that deletes while it pages can go on from there.
    """

    def __init__(self) -> None:
        self._items: list[T | None] = []
        self._place: dict[str, int] = {}

    def __iter__(self) -> Iterator[T]:
        return (item for item in self._items if item is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def add(self, item: T) -> None:
        """Put an item at the end."""
        self._place[item.id] = len(self._items)
        self._items.append(item)

    def get(self, item_id: str) -> T | None:
        """The item, or `None` when it was never here or was removed."""
        place = self._place.get(item_id)
        return None if place is None else self._items[place]

    def replace(self, item: T) -> None:
        """Put a changed item where the one with its id is."""
        self._items[self._place[item.id]] = item

    def remove(self, item_id: str) -> T | None:
        """Take an item out; `None` when it isn't here."""
        item = self.get(item_id)
        if item is not None:
            self._items[self._place[item_id]] = None
        return item

    def page(
        self,
        *,
        after: str | None,
        limit: int,
        newest_first: bool,
        keep: Callable[[T], bool] = lambda _: True,
    ) -> Page[T]:
        """Up to `limit` items that follow `after`.

        Raises:
            KeyError: No item has ever had the id `after`.
        """
        step = -1 if newest_first else 1
        if after is None:
            place = len(self._items) - 1 if newest_first else 0
        else:
            place = self._place[after] + step
        found: list[T] = []
        while 0 <= place < len(self._items):
            item = self._items[place]
            place += step
            if item is None or not keep(item):
                continue
            if len(found) == limit:
                return Page(found, has_more=True)
            found.append(item)
        return Page(found, has_more=False)
