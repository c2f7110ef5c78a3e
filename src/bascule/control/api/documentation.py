"""`/openapi.json`, and its pages `/docs` and `/redoc`, which load nothing from elsewhere.

All routes are analysed for the document, which takes a second of a quiet machine: on a thread and
once, for a process whose event loop stands still is replaced.
"""

from __future__ import annotations

import json
from html import escape
from importlib.util import find_spec
from pathlib import Path

import anyio
from anyio import to_thread
from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

_STATIC = "static-offline-docs"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; worker-src blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Both pages write styles of their own, and neither has a script in it."""
_PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>%s</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="{_STATIC}/favicon.png">
<link rel="stylesheet" href="{_STATIC}/swagger-ui.css"></head>
<body style="margin: 0">%s</body></html>
"""
_BODIES = {
    "/docs": f"""<div id="docs"></div>
<script src="{_STATIC}/swagger-ui-bundle.js"></script><script src="docs/begin.js"></script>""",
    "/redoc": f"""<redoc spec-url="openapi.json"></redoc>
<script src="{_STATIC}/redoc.standalone.js"></script>""",
}
_BEGIN = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#docs", deepLinking: true})\n'


def add_documentation(app: FastAPI) -> None:
    """Add the document and its pages to an application that was made without them."""
    spec = find_spec("fastapi_offline")
    assert spec is not None
    assert spec.origin is not None
    app.mount(f"/{_STATIC}", StaticFiles(directory=Path(spec.origin).parent / "static"))
    making = anyio.Lock()
    document = b""

    async def openapi(_: Request) -> Response:
        nonlocal document
        async with making:
            document = document or await to_thread.run_sync(
                lambda: json.dumps(app.openapi(), ensure_ascii=False).encode()
            )
        return Response(document, media_type="application/json")

    async def page(request: Request) -> Response:
        text = _PAGE % (escape(app.title), _BODIES[request.url.path])
        return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY})

    async def begin(_: Request) -> Response:
        return Response(_BEGIN, media_type="text/javascript")

    app.add_route("/openapi.json", openapi, include_in_schema=False)
    app.add_route("/docs/begin.js", begin, include_in_schema=False)
    for path in _BODIES:
        app.add_route(path, page, include_in_schema=False)
