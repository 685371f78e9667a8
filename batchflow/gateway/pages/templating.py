"""Templates of the pages, and their static files.

Every value in a template is escaped, and unprintable characters are replaced: messages, names and
configs come from others.
"""

import hashlib
import json
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined

from batchflow.gateway.security.access import Access, csrf_token, principal_of
from batchflow.links import batch_page, file_page
from batchflow.overview import formatting, untrusted_text

_STATIC: Final = Path(__file__).parent / "static"
_DIGEST_CHARS: Final = 10
#: The most characters of a message in a row of the table, which shows a part of them.
_MESSAGE_CHARS: Final = 300


class _ImmutableFiles(StaticFiles):
    """Files whose URLs change with their content, so that browsers may keep them."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


#: The files below ``/static``.
static_files = _ImmutableFiles(directory=_STATIC)


@cache
def static(name: str) -> str:
    """The URL of a static file. It changes with the file, so that no browser combines a new page
    with an old style."""
    digest = hashlib.sha256((_STATIC / name).read_bytes()).hexdigest()
    return f"/static/{name}?v={digest[:_DIGEST_CHARS]}"


def printable(value: object) -> object:
    """A value without unprintable characters; applied to every value in a template."""
    # Markup is a subclass of str, made of values that were processed before.
    return untrusted_text.printable(value) if type(value) is str else value


_environment = Environment(
    loader=PackageLoader("batchflow.gateway.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=printable,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_environment.globals |= {"static": static, "batch_page": batch_page, "file_page": file_page}
_environment.filters |= {
    "ago": formatting.ago,
    "between": formatting.between,
    "execution_location": formatting.execution_location,
    "execution_name": formatting.execution_name,
    "json": partial(json.dumps, indent=2, ensure_ascii=False),
    "left": formatting.left,
    "number": formatting.number,
    "one_line": partial(untrusted_text.one_line, max_chars=_MESSAGE_CHARS),
    "percent": formatting.percent,
    "short_id": formatting.short_id,
    "size": formatting.size,
    "utc": formatting.utc,
    "words": formatting.words,
}


def render(
    request: Request, template: str, *, status_code: int = 200, **values: Any
) -> HTMLResponse:
    """Render a page."""
    access: Access = request.app.state.access
    text = _environment.get_template(template).render(
        can_log_out=principal_of(request).session is not None and not access.is_open,
        # Called by pages with a form; it begins a session if there is none.
        csrf_token=partial(csrf_token, request),
        **values,
    )
    return HTMLResponse(text, status_code)
