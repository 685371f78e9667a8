"""Ordered collections with OpenAI's cursor pagination, one for each organization."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class HasId(Protocol):
    """An item of a collection."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=HasId)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list, and whether more items follow."""

    items: list[T]
    has_more: bool


class PagedCollection(Generic[T]):
    """Items in the order of their creation.

    A removed item keeps its position, so that a client that deletes while it lists can continue.
    """

    def __init__(self) -> None:
        self._items: list[T | None] = []
        self._positions: dict[str, int] = {}

    def __iter__(self) -> Iterator[T]:
        return (item for item in self._items if item is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def add(self, item: T) -> None:
        """Append an item."""
        self._positions[item.id] = len(self._items)
        self._items.append(item)

    def get(self, item_id: str) -> T | None:
        """Return the item, or `None` if it does not exist."""
        position = self._positions.get(item_id)
        return None if position is None else self._items[position]

    def replace(self, item: T) -> None:
        """Replace the item that has the same id."""
        self._items[self._positions[item.id]] = item

    def remove(self, item_id: str) -> T | None:
        """Remove an item and return it, or return `None` if it does not exist."""
        item = self.get(item_id)
        if item is not None:
            self._items[self._positions[item_id]] = None
        return item

    def page(
        self,
        *,
        after: str | None,
        limit: int,
        newest_first: bool,
        keep: Callable[[T], bool] = lambda _: True,
    ) -> Page[T]:
        """Return up to `limit` items after the item with the id `after`.

        Raises:
            KeyError: No item has or had the id `after`.
        """
        step = -1 if newest_first else 1
        if after is None:
            position = len(self._items) - 1 if newest_first else 0
        else:
            position = self._positions[after] + step
        items: list[T] = []
        while 0 <= position < len(self._items):
            item = self._items[position]
            position += step
            if item is None or not keep(item):
                continue
            if len(items) == limit:
                return Page(items, has_more=True)
            items.append(item)
        return Page(items, has_more=False)


class Collections(Generic[T]):
    """The collections of all organizations."""

    def __init__(self) -> None:
        self._by_organization: defaultdict[str, PagedCollection[T]] = defaultdict(PagedCollection)

    def of(self, organization: str) -> PagedCollection[T]:
        """Return the collection of an organization."""
        return self._by_organization[organization]

    def all(self) -> list[T]:
        """Return the items of all organizations."""
        return [item for collection in self._by_organization.values() for item in collection]

    def find(self, item_id: str) -> T | None:
        """Return an item of any organization, or `None` if it does not exist."""
        found = (collection.get(item_id) for collection in self._by_organization.values())
        return next((item for item in found if item is not None), None)

    def clear(self) -> None:
        """Remove all items."""
        self._by_organization.clear()
