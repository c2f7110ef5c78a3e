"""`/sign-in`: by a one-time link or at a provider; and signing out."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import RedirectResponse

from bascule.console.flash import Flash
from bascule.console.forms import field
from bascule.console.session import CSRF_FIELD, Session
from bascule.console.site import SIGN_IN, PageRouter, console_of, context_of, form_of, render, see
from bascule.control import (
    FLOW_LASTS_S,
    Flow,
    Provider,
    cookie_name,
    cookie_of,
    drop_cookie,
    is_encrypted,
    set_cookie,
)
from bascule.core import BasculeError, NotFound, Unauthenticated
from bascule.security import Session as Stored, local_path

CALLBACK = f"{SIGN_IN}/callback"
router = PageRouter()

_Code = Annotated[str, Query(max_length=2_048)]
_Next = Annotated[str, Query(alias="next", max_length=2_048)]


def _page(
    request: Request, returns_to: str, error: BasculeError | None = None, code: str = "",
    user: str = "",
) -> Response:  # fmt: skip
    """The ways to sign in: by a link that works, if there is a `code`, and at the provider."""
    status, provider = 200, console_of(request).provider
    if error is not None:
        status = 401 if isinstance(error, Unauthenticated) else 403
    return render(
        request, "sign_in.html", "Sign in", status=status, code=code, user=user, error=error,
        returns_to=local_path(returns_to), provider="" if provider is None else provider.name,
        asks_for_keys=context_of(request).asks_for_keys,
    )  # fmt: skip


@router.page(f"GET {SIGN_IN}", None)
def ways_in(request: Request, code: _Code = "", returns_to: _Next = "/") -> Response:
    """The ways to sign in. A link is looked at, and used by the button alone."""
    if not code:
        return _page(request, returns_to)
    try:
        link = context_of(request).sessions().offered(code)
    except Unauthenticated as error:
        return _page(request, returns_to, error)
    return _page(request, returns_to, code=code, user=link.user)


@router.page(f"POST {SIGN_IN}", None)
def use_link(request: Request) -> Response:
    """Begin the session of a link."""
    form = form_of(request)
    returns_to = local_path(form.get("next", "/"))
    try:
        token, session = context_of(request).sessions().redeem(field(form, "code"))
    except Unauthenticated as error:
        return _page(request, returns_to, error)
    flash = Flash("good", f"You are signed in as {session.user}.")
    return _begun(request, see(request, returns_to, flash), token, session)


@router.page(f"GET {SIGN_IN}/provider", None)
def to_provider(request: Request, returns_to: _Next = "/") -> Response:
    """Send the browser to the provider; what it must bring back is in a cookie."""
    url, flow = _provider(request).begin(_redirect_uri(request), returns_to)
    response = RedirectResponse(url, 303)
    response.set_cookie(
        _flow_cookie(request), flow.to_cookie(), max_age=FLOW_LASTS_S, path="/", httponly=True,
        # Lax: the redirect of the provider comes from another site.
        secure=is_encrypted(request), samesite="lax",
    )  # fmt: skip
    return response


@router.page(f"GET {CALLBACK}", None)
def from_provider(request: Request) -> Response:
    """Begin the session of a person that the provider sends back."""
    try:
        flow = Flow.from_cookie(request.cookies.get(_flow_cookie(request), ""))
        person = _provider(request).finish(flow, _redirect_uri(request), request.query_params)
    except BasculeError as error:
        response = _page(request, "/", error)
    else:
        token, session = (
            context_of(request).sessions().begin(person.user, person.permissions, "oidc")
        )
        # A page, and no redirect: browsers send a strict cookie from our own pages alone.
        page = render(
            request, "signed_in.html", "Signed in", user=session.user, returns_to=flow.returns_to
        )
        response = _begun(request, page, token, session)
    response.delete_cookie(
        _flow_cookie(request), path="/", httponly=True, secure=is_encrypted(request),
        samesite="lax",
    )  # fmt: skip
    return response


@router.page("POST /sign-out", None)
def sign_out(request: Request) -> Response:
    """End the session of the browser."""
    session: Session | None = request.state.session
    if session is not None and session.is_signed_in:
        session.check_form(form_of(request).get(CSRF_FIELD, ""))
        _end(request)
    response = see(request, SIGN_IN, Flash("good", "You are signed out."))
    drop_cookie(request, response)
    return response


def _begun(request: Request, response: Response, token: str, session: Stored) -> Response:
    """Give the browser its new session, and end the one that it had."""
    _end(request)
    set_cookie(request, response, token, session)
    return response


def _end(request: Request) -> None:
    sessions = context_of(request).sessions()
    before = sessions.find(cookie_of(request))
    if before is not None:
        sessions.end(before)


def _provider(request: Request) -> Provider:
    found = console_of(request).provider
    if found is None:
        raise NotFound(
            "this server has no provider to sign in at",
            hint="sign in by a link of bascule sign-in, or set console.oidc_issuer",
        )
    return found


def _redirect_uri(request: Request) -> str:
    base = console_of(request).public_url or str(request.base_url)
    return base.rstrip("/") + CALLBACK


def _flow_cookie(request: Request) -> str:
    return f"{cookie_name(request)}-flow"
