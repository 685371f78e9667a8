"""Measure several sides in alternation, so that changes of the machine affect all of them."""

from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def alternate(rounds: int, sides: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Measure each side once per round; the first side changes with each round."""
    found: dict[str, list[T]] = {side: [] for side in sides}
    order = list(sides)
    for number in range(rounds):
        first = number % len(order)
        for side in order[first:] + order[:first]:
            found[side].append(sides[side]())
    return found
