"""Adds the console to the control application: pages, templates, static files, headers.

A page is a module of `console.pages` with a `router` (a `PageRouter`), and a line of
`table.PAGES`. Its routes name their rights, as those of the API do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from anyio import to_thread
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from bascule.catalogue import origins
from bascule.console.changes import Changes
from bascule.console.flash import Flash, Flashes
from bascule.console.forms import is_form, read_form
from bascule.console.kept import Kept
from bascule.console.latest import Latest
from bascule.console.live import Looks
from bascule.console.session import CSRF_FIELD, CSRF_HEADER, Sessions, current
from bascule.console.table import PAGES
from bascule.console.uploads import Uploads
from bascule.control import SAFE_METHODS, DeferredRoute, check_same_origin, problem_of
from bascule.core import VERSION, BasculeError, Unauthenticated
from bascule.documents import fragment
from bascule.security import Action

if TYPE_CHECKING:
    from jinja2 import Environment

    from bascule.control import ControlContext, Provider

HERE = Path(__file__).parent
STATIC = "/console/static"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_STATIC_AGE_S = 86_400
_MAX_MEASURED = 4_096

SIGN_IN = "/sign-in"

Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Crumb:
    """One place of the breadcrumb; without a path, the page itself."""

    name: str
    path: str = ""


class Console:
    """What pages share. The application keeps it in its state, as `console`.

    Attributes:
        context: What opens the registry, the endpoints and the rest.
        sessions: Finds the session of a request.
        flashes: Messages that the next page shows once.
        looks: The latest looks at the counters of endpoints.
        kept: Plots and sequences, which take long to draw.
        measured: By the id of a job that measured a model, a few numbers of its report.
        traffic: What endpoints answered in the last 24 hours.
        uploads: Files that people sent.
        routes: Those of all pages, each with its `right`.
        changes: Tells open pages of changes of the catalogue.
        public_url: The address by which browsers come, where a proxy is in front; else empty.
        provider: Where people sign in; None for links alone.
    """

    def __init__(
        self, context: ControlContext, *, public_url: str = "", provider: Provider | None = None
    ) -> None:
        self.context = context
        self.public_url = public_url
        self.provider = provider
        self.sessions = Sessions(context.authorise, context.find_session)
        self.flashes = Flashes()
        self.looks = Looks()
        self.kept = Kept()
        self.measured = Kept(_MAX_MEASURED)
        self.traffic = Latest(lambda: context.predictions.traffic(datetime.now(UTC)))
        self.uploads = Uploads(context.parts.home)
        self.routes: list[Any] = []
        self.changes = Changes(context.parts.open_catalogue)


def console_of(request: Request) -> Console:
    """The console that a request belongs to."""
    found: Console = request.app.state.console
    return found


def context_of(request: Request) -> ControlContext:
    """What opens the registry, the endpoints and the rest."""
    return console_of(request).context


def add_console(app: FastAPI, *, public_url: str = "", provider: Provider | None = None) -> None:
    """Add pages and static files to a control application.

    Args:
        app: The application.
        public_url: The address by which browsers come, where a proxy is in front.
        provider: Where people sign in; None for links alone.
    """
    context: ControlContext = app.state.control
    app.state.is_public_https = public_url.startswith("https:")
    app.state.console = console = Console(context, public_url=public_url, provider=provider)
    app.state.before_end = console.changes.end
    for page in PAGES:
        module = import_module(f"bascule.console.pages.{page.module}")
        # Not `include_router`, which hides them: what checks rights looks through `app.routes`.
        app.router.routes.extend(module.router.routes)
        console.routes.extend(module.router.routes)
    app.mount(STATIC, _Static(directory=HERE / "static"))
    _answer_browsers(app)


class PageRouter(APIRouter):
    """A router of pages: each route has a right, a session, checked forms, and HTML for errors.

    Before a handler runs, the session is found (`session.current`), and the form of a POST is read
    and its token checked (`form_of`).
    """

    def __init__(self) -> None:
        super().__init__(include_in_schema=False, default_response_class=HTMLResponse)

    def page(
        self, call: str, action: Action | None, model: str = ""
    ) -> Callable[[Handler], Handler]:
        """Have a function answer `METHOD PATH`.

        Args:
            call: Method and path.
            action: What a person must have the right to do; None for the pages of signing in, which
                need no session.
            model: To which model, as in `operations.Operation`.
        """
        method, _, path = call.partition(" ")
        kind = _route_of(None if action is None else (action, model))

        def answers(handler: Handler) -> Handler:
            self.add_api_route(path, handler, methods=[method], route_class_override=kind)
            return handler

        return answers


def form_of(request: Request) -> Mapping[str, str]:
    """The form of a POST that a page handles."""
    found: Mapping[str, str] = request.state.form
    return found


def render(
    request: Request, template: str, title: str, *, crumbs: Sequence[Crumb] = (),
    status: int = 200, **view: Any,
) -> HTMLResponse:  # fmt: skip
    """A page, or a part of one where the template does not extend that of a page.

    Args:
        request: That is answered.
        template: Its file in `templates`.
        title: Of the page.
        crumbs: The pages above it, from the overview down; the page itself last.
        status: Of HTTP.
        view: The facts; `view.NAME` in the template.
    """
    console = console_of(request)
    flash = console.flashes.take(request)
    text = _templates().get_template(template).render(
        view=SimpleNamespace(**view), title=title, crumbs=crumbs, flash=flash,
        path=request.url.path, session=getattr(request.state, "session", None),
        may=partial(may, request),
    )  # fmt: skip
    response = HTMLResponse(text, status)
    if flash is not None:
        console.flashes.forget(request, response)
    return response


def may(request: Request, path: str, about: str = "", method: str = "POST") -> bool:
    """Whether the session of a request has the right that a route of a page requires.

    Templates show a form or a link only then: the macros of the file "parts.html" ask this.

    Args:
        request: That is answered.
        path: Of the route, as a form or a link has it; its query and fragment do not count.
        about: The model, where the right of the route is on any model and the model is in the form.
        method: Of the route.
    """
    place = unquote(urlsplit(path).path)
    for route in console_of(request).routes:
        named = route.path_regex.match(place)
        if named and method in route.methods:
            if route.right is None:
                return True
            action, model = route.right
            session = getattr(request.state, "session", None)
            model = model.format(**named.groupdict()) or about
            return session is not None and session.allows(action, model)
    raise KeyError(f"{method} {place} is no route of a page")


def see(request: Request, path: str, flash: Flash | None = None) -> RedirectResponse:
    """Send the browser to a page of the console after a form, with a message."""
    response = RedirectResponse(path, 303)
    if flash is not None:
        console_of(request).flashes.put(request, response, flash)
    return response


def problem(request: Request, error: Exception) -> Response:
    """The page of an error, or of signing in where that is missing; raises errors that are bugs."""
    if isinstance(error, Unauthenticated) and request.url.path != SIGN_IN:
        return _to_sign_in(request)
    answer = problem_of(error, request.url.path)
    if answer is None:
        raise error
    said = json.loads(bytes(answer.body))
    page = render(request, "error.html", said["title"], status=answer.status_code, said=said)
    for name in ("www-authenticate", "retry-after"):
        if name in answer.headers:
            page.headers[name] = answer.headers[name]
    return page


def _to_sign_in(request: Request) -> Response:
    is_part = "hx-request" in request.headers  # of a page that is still open
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    wanted = here if request.method == "GET" and not is_part else "/"
    path = f"{SIGN_IN}?next={quote(wanted, safe='/')}"
    if is_part:
        return Response(status_code=401, headers={"HX-Redirect": path})
    return RedirectResponse(path, 303)


def _route_of(needed: tuple[Action, str] | None) -> type[APIRoute]:
    class PageRoute(DeferredRoute):
        right = needed

        def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    if needed is None:
                        await _admit_all(request)
                    else:
                        await _admit(request, needed[0], needed[1].format(**request.path_params))
                    # Signing in and out is done here, and not through the control API.
                    address = request.client.host if request.client else ""
                    with origins.acting(origins.Origin(f"page {self.path}", address=address)):
                        response = await handle(request)
                except (BasculeError, RequestValidationError, HTTPException) as error:
                    response = problem(request, error)
                response.headers.update(HEADERS)
                response.headers.setdefault("Cache-Control", "no-store")
                return response

            return guarded

    return PageRoute


async def _admit(request: Request, action: Action, model: str) -> None:
    """Find the session, check the right, and the form of a request that changes something."""
    sessions = console_of(request).sessions
    request.state.session = await to_thread.run_sync(sessions.find, request)
    session = current(request)
    session.check(action, model)
    if request.method in SAFE_METHODS:
        return
    check_same_origin(request)
    token = request.headers.get(CSRF_HEADER)
    if token is not None:  # of a page's script, which may send a file that the handler reads
        session.check_form(token)
        request.state.form = await read_form(request) if is_form(request) else {}
        return
    request.state.form = form = await read_form(request)
    session.check_form(form.get(CSRF_FIELD, ""))


async def _admit_all(request: Request) -> None:
    """Find the session, if there is one; a form must come from a page of this site."""
    sessions = console_of(request).sessions
    try:
        request.state.session = await to_thread.run_sync(sessions.find, request)
    except Unauthenticated:
        request.state.session = None
    if request.method not in SAFE_METHODS:
        check_same_origin(request)
        request.state.form = await read_form(request)


def _answer_browsers(app: FastAPI) -> None:
    """Let a browser that asks for an address that is not there have a page, and not JSON."""
    of_api: Any = app.exception_handlers[HTTPException]

    async def answered(request: Request, error: Exception) -> Response:
        is_page = not request.url.path.startswith(("/api/", "/v2/", STATIC))
        if is_page and "text/html" in request.headers.get("accept", ""):
            response = problem(request, error)
            response.headers.update(HEADERS)
            return response
        answer: Response = of_api(request, error)
        return answer

    app.add_exception_handler(HTTPException, answered)


class _Static(StaticFiles):
    """Static files with the headers of pages; their addresses change with their content."""

    async def get_response(self, path: str, scope: Any) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        response.headers["Cache-Control"] = f"public, max-age={_STATIC_AGE_S}"
        return response


@cache
def _templates() -> Environment:
    """The templates, compiled once; values are escaped unless they are `Svg` or `Html`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from bascule.console.words import FILTERS

    made = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters.update(FILTERS, fragment=fragment)
    made.globals.update(
        version=VERSION, static=STATIC, pages=PAGES, csrf_field=CSRF_FIELD,
        csrf_header=CSRF_HEADER, build=_build(),
    )  # fmt: skip
    return made


def _build() -> str:
    """Changes with the static files, so that browsers keep none of another release."""
    digest = hashlib.sha256(VERSION.encode())
    for file in sorted((HERE / "static").glob("*.*")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
