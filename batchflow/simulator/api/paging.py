"""Objects by id, and lists with OpenAI's cursor pagination: `limit` and `after`."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from batchflow.simulator.api_error import invalid, not_found
from batchflow.simulator.engine.paged_collection import PagedCollection, T


def list_page(
    request: Request,
    collection: PagedCollection[T],
    to_json: Callable[[T], dict[str, Any]],
    *,
    kind: str,
    default_limit: int = 20,
    max_limit: int = 100,
    newest_first: bool = True,
    keep: Callable[[T], bool] = lambda _: True,
) -> Response:
    """Return the page that the query asks for.

    Raises:
        ApiError: `limit` is invalid, or `after` is not the id of a `kind`.
    """
    after = request.query_params.get("after")
    limit = _read_limit(request, default=default_limit, maximum=max_limit)
    try:
        page = collection.page(after=after, limit=limit, newest_first=newest_first, keep=keep)
    except KeyError:
        raise not_found(kind, after or "", param="after") from None
    return JSONResponse(
        {
            "object": "list",
            "data": [to_json(item) for item in page.items],
            "first_id": page.items[0].id if page.items else None,
            "last_id": page.items[-1].id if page.items else None,
            "has_more": page.has_more,
        }
    )


def find(request: Request, collection: PagedCollection[T], kind: str) -> T:
    """Return the item whose id is in the path."""
    object_id: str = request.path_params["id"]
    item = collection.get(object_id)
    if item is None:
        raise not_found(kind, object_id)
    return item


def _read_limit(request: Request, *, default: int, maximum: int) -> int:
    given = request.query_params.get("limit")
    if given is None:
        return default
    try:
        limit = int(given[:10])
    except ValueError:
        message = "Invalid type for 'limit': expected an integer, but got a string instead."
        raise invalid(message, "limit", "invalid_type") from None
    if 1 <= limit <= maximum:
        return limit
    problem, comparison, code = (
        ("below minimum", ">= 1", "integer_below_min_value")
        if limit < 1
        else ("above maximum", f"<= {maximum}", "integer_above_max_value")
    )
    message = (
        f"Invalid 'limit': integer {problem} value. Expected a value {comparison}, got {limit}."
    )
    raise invalid(message, "limit", code)
