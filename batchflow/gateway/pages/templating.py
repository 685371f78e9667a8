"""Pages from templates, and the files that they need.

Every value in a template is escaped, and cleaned of what would rearrange the page: messages,
names and configs are others' words.
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

from batchflow.gateway.pages import display
from batchflow.gateway.security.access import Access, csrf_token, principal_of
from batchflow.links import batch_page, file_page

_STATIC: Final = Path(__file__).parent / "static"
_DIGEST_CHARS: Final = 10


class _Files(StaticFiles):
    """Files whose addresses change with them: a browser may keep what it has."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


#: The pages' own files, for ``/static``.
static_files = _Files(directory=_STATIC)


@cache
def static(name: str) -> str:
    """The address of a file of ours. It changes with the file, so that no browser shows a new
    page with an old style."""
    digest = hashlib.sha256((_STATIC / name).read_bytes()).hexdigest()
    return f"/static/{name}?v={digest[:_DIGEST_CHARS]}"


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


_environment = Environment(
    loader=PackageLoader("batchflow.gateway.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=display.clean,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_environment.globals |= {"static": static, "batch_page": batch_page, "file_page": file_page}
_environment.filters |= {
    "ago": display.ago,
    "between": display.between,
    "execution_name": display.execution_name,
    "execution_place": display.execution_place,
    "json": _json,
    "left": display.left,
    "number": display.number,
    "one_line": display.one_line,
    "percent": display.percent,
    "short_id": display.short_id,
    "size": display.size,
    "utc": display.utc,
    "words": display.words,
}


def render(
    request: Request, template: str, *, status_code: int = 200, **values: Any
) -> HTMLResponse:
    """A page."""
    access: Access = request.app.state.access
    text = _environment.get_template(template).render(
        can_log_out=principal_of(request).session is not None and not access.is_open,
        # Called by a page that has a form: it begins a session.
        csrf_token=partial(csrf_token, request),
        **values,
    )
    return HTMLResponse(text, status_code)
