"""The series that a PromQL expression selects."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import promql_parser
from promql_parser import AggModifierType, AggregateExpr, Call, VectorSelector

from tests.kit.exposition import Exposition

#: Labels that Prometheus adds, or computes with.
_PROMETHEUS = frozenset({"job", "le"})
#: Aggregations that count equal values of several gateways once.
_TAKE_ONE = frozenset({"max", "min", "count"})
#: Grafana's variables, and values for them.
_VARIABLES = {"$__rate_interval": "5m", "$__range": "6h", "$__interval": "1m"}


@dataclass(frozen=True)
class Selector:
    """A selector in an expression, and the aggregations around it."""

    metric: str
    #: Labels that are compared: name -> operator and value.
    matched: Mapping[str, tuple[str, str]]
    #: Labels that the result is grouped by, from the inside out.
    grouped: tuple[tuple[str, ...], ...]
    #: Whether equal values of several gateways count once.
    once: bool

    def fits(self, exposition: Exposition) -> bool:
        """Whether an exposition has such a series with all of the labels."""
        labels = {label for group in self.grouped for label in group} - _PROMETHEUS
        wanted = {n: how for n, how in self.matched.items() if n not in _PROMETHEUS}
        return any(
            name == self.metric
            and labels <= dict(found).keys()
            and all(_matches(dict(found).get(n, ""), *how) for n, how in wanted.items())
            for name, found in exposition.samples
        )


def selectors(expression: str) -> list[Selector]:
    """All selectors of an expression; raises ValueError if it is not valid PromQL."""
    for variable, value in _VARIABLES.items():
        expression = expression.replace(variable, value)
    found: list[Selector] = []
    around: list[Any] = []

    def enter(node: Any) -> None:
        if isinstance(node, VectorSelector):
            found.append(_selector(node, around))
        around.append(node)

    def leave(_: Any) -> None:
        around.pop()

    promql_parser.walk(promql_parser.parse(expression), enter, leave)
    return found


def result_labels(expression: str) -> set[str]:
    """The labels of an expression's result: those that all of its parts keep."""
    outer = [set(selector.grouped[-1]) for selector in selectors(expression) if selector.grouped]
    return set.intersection(*outer) if outer else set()


def _selector(node: VectorSelector, around: list[Any]) -> Selector:
    groups = [outer for outer in reversed(around) if isinstance(outer, AggregateExpr)]
    by = [group.modifier for group in groups]
    assert all(m is None or m.type == AggModifierType.By for m in by), "group with `by`"
    absent = any(isinstance(outer, Call) and outer.func.name == "absent" for outer in around)
    return Selector(
        metric=str(node.name),
        matched={
            matcher.name: (str(matcher.op).removeprefix("MatchOp."), matcher.value)
            for matcher in node.matchers.matchers
        },
        grouped=tuple(tuple(modifier.labels) if modifier else () for modifier in by),
        once=absent or (bool(groups) and str(groups[0].op) in _TAKE_ONE),
    )


def _matches(value: str, operator: str, wanted: str) -> bool:
    match operator:
        case "Equal":
            return value == wanted
        case "NotEqual":
            return value != wanted
        case "Re":
            return bool(re.fullmatch(wanted, value))
    return not re.fullmatch(wanted, value)
