"""Signing in at an OpenID Connect provider: the whole flow against one, and answers that lie."""

import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.receivers import dripping

from bascule.control.people import oidc
from bascule.control.people.oidc import Flow, Provider, ProviderConfig
from bascule.core import Overloaded, Refused, Unauthenticated, Unavailable
from bascule.security import permissions_of_roles

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the provider

REDIRECT = "http://127.0.0.1:8082/sign-in/callback"
ADA = {"email": "ada@example.com", "groups": ["ml-team", "staff"], "nested": {"roles": ["viewer"]}}
EVE = {"email": "eve@example.com", "groups": ["staff"]}
ROLES = {"ml-team": ("viewer:*", "operator:late")}


@pytest.fixture(scope="module")
def issuer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the provider uses what Authlib is to drop
        from oidc_provider_mock import User, run_server_in_thread

        users = [User(sub="ada", claims=ADA), User(sub="eve", claims=EVE)]
        with run_server_in_thread(user_claims=users, require_nonce=True) as server:
            yield f"http://localhost:{server.server_port}"


@pytest.fixture
def config(issuer):
    return ProviderConfig(issuer, "bascule", "s3cret", roles_claim="groups", roles=ROLES)


@pytest.fixture
def provider(config):
    return Provider(config)


def consent(url, user="ada", **form):
    """The parameters with which the provider sends a browser back."""
    answered = httpx.post(url, data={"sub": user, **form})
    place = urlsplit(answered.headers["location"])
    assert place._replace(query="").geturl() == REDIRECT
    return {name: values[0] for name, values in parse_qs(place.query).items()}


def test_a_person_comes_back_with_a_name_and_the_permissions_of_the_groups(provider):
    url, flow = provider.begin(REDIRECT, "/models/late")

    person = provider.finish(flow, REDIRECT, consent(url))

    assert person.user == "ada@example.com"
    assert person.permissions == permissions_of_roles(["viewer:*", "operator:late"])
    assert flow.returns_to == "/models/late"


def test_the_browser_is_sent_with_pkce_state_and_nonce(provider):
    url, flow = provider.begin(REDIRECT, "/")

    sent = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert sent["code_challenge_method"] == "S256"
    assert sent["code_challenge"] != flow.verifier
    assert (sent["state"], sent["nonce"]) == (flow.state, flow.nonce)
    assert (sent["client_id"], sent["redirect_uri"]) == ("bascule", REDIRECT)
    assert "s3cret" not in url


def test_a_person_without_a_role_is_refused_and_told_which_claim_was_asked(provider):
    url, flow = provider.begin(REDIRECT, "/")

    with pytest.raises(Refused, match="has no role here") as raised:
        provider.finish(flow, REDIRECT, consent(url, "eve"))
    assert "'groups'" in raised.value.hint


def test_a_nested_claim_is_named_by_its_path(config):
    provider = Provider(replace(config, roles_claim="nested.roles", roles={}))
    url, flow = provider.begin(REDIRECT, "/")

    assert provider.finish(flow, REDIRECT, consent(url)).permissions == permissions_of_roles(
        ["viewer"]
    )


def test_an_answer_for_another_browser_signs_nobody_in(provider):
    url, _ = provider.begin(REDIRECT, "/")
    _, other = provider.begin(REDIRECT, "/")

    with pytest.raises(Unauthenticated, match="another sign-in"):
        provider.finish(other, REDIRECT, consent(url))


def test_a_token_of_another_sign_in_is_refused_by_its_nonce(provider):
    url, flow = provider.begin(REDIRECT, "/")
    back = consent(url)

    with pytest.raises(Unauthenticated, match="nonce"):
        provider.finish(replace(flow, nonce="another"), REDIRECT, back)


def test_a_code_that_was_used_signs_nobody_in(provider):
    url, flow = provider.begin(REDIRECT, "/")
    back = consent(url)
    provider.finish(flow, REDIRECT, back)

    with pytest.raises(Unauthenticated):
        provider.finish(flow, REDIRECT, back)


def test_a_person_that_does_not_consent_is_told_so(provider):
    url, flow = provider.begin(REDIRECT, "/")

    with pytest.raises(Unauthenticated, match="access_denied"):
        provider.finish(flow, REDIRECT, {**consent(url, action="deny"), "state": flow.state})


def test_a_token_for_another_client_is_refused(config, provider):
    url, flow = provider.begin(REDIRECT, "/")
    back = consent(url)
    other = Provider(replace(config, client_id="other"))

    with pytest.raises(Unauthenticated):
        other.finish(flow, REDIRECT, back)


def test_a_provider_that_is_away_is_no_wrong_password(config):
    with pytest.raises(Unavailable, match="does not answer"):
        Provider(replace(config, issuer="http://127.0.0.1:1")).begin(REDIRECT, "/")


@pytest.mark.parametrize("drip", ["continue", "status", "header", "body", "chunk", "silence"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_provider_that_never_finishes_its_answer_is_left_at_the_deadline(
    config, monkeypatch, scheme, drip
):
    monkeypatch.setattr(oidc, "TIMEOUT_S", 0.4)
    with dripping(drip) as port:
        provider = Provider(replace(config, issuer=f"{scheme}://127.0.0.1:{port}"))
        began = time.monotonic()
        with pytest.raises(Unavailable):
            provider.begin(REDIRECT, "/")
    assert time.monotonic() - began < 5  # it would be silent for longer


def test_a_slow_provider_holds_few_threads(config, monkeypatch):
    """Sixty held every thread of the control process, by callers without a key."""
    with pytest.raises(Unavailable):  # and what it imports is there
        Provider(replace(config, issuer="http://127.0.0.1:1")).begin(REDIRECT, "/")
    monkeypatch.setattr(oidc, "TIMEOUT_S", 2.0)
    with dripping("header") as port, ThreadPoolExecutor(60) as threads:
        provider = Provider(replace(config, issuer=f"http://127.0.0.1:{port}"))
        steps = [threads.submit(provider.begin, REDIRECT, "/") for _ in range(60)]
        kinds = [type(step.exception()) for step in as_completed(steps)]
    refused = 60 - oidc.MAX_STEPS
    assert kinds == [Overloaded] * refused + [Unavailable] * oidc.MAX_STEPS
    with pytest.raises(Unavailable):  # their places are free again
        provider.begin(REDIRECT, "/")


def test_a_provider_that_calls_itself_otherwise_is_refused(config):
    class Liar(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"issuer": "https://login.example.com"}')

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Liar)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    try:
        liar = Provider(replace(config, issuer=f"http://127.0.0.1:{server.server_port}"))
        with pytest.raises(Unavailable, match="calls itself https://login"):
            liar.begin(REDIRECT, "/")
    finally:
        thread.join(30)
        server.server_close()


@pytest.mark.parametrize(
    "cookie", ["", "x", "é", "e30=", "bnVsbA==", "W10=", "a" * 5_000, "eyJzdGF0ZSI6IDF9"]
)
def test_a_cookie_that_no_flow_has_made_signs_nobody_in(cookie):
    with pytest.raises(Unauthenticated, match="sign-in"):
        Flow.from_cookie(cookie)


def test_a_cookie_brings_the_flow_back_and_never_another_site():
    flow = Flow("s", "n", "v", "/history")

    assert Flow.from_cookie(flow.to_cookie()) == flow
    evil = replace(flow, returns_to="//evil.example")
    assert Flow.from_cookie(evil.to_cookie()).returns_to == "/"


def test_the_secret_of_the_client_is_in_no_text(config):
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    ("said", "user"),
    [
        ({}, "ada@corp"), ({"email_verified": True}, "ada@corp"),
        ({"email_verified": "true"}, "ada@corp"), ({"email_verified": "false"}, "id-7"),
        ({"email_verified": False}, "id-7"), ({"email_verified": "False"}, "id-7"),
        ({"email_verified": 0}, "id-7"), ({"email_verified": None}, "id-7"),
        ({"email_verified": "no"}, "id-7"), ({"email_verified": []}, "id-7"),
    ],
)  # fmt: skip
def test_an_address_that_the_provider_has_not_verified_is_no_name(said, user):
    """Some providers send booleans as texts, and a text that is not empty is true in Python."""
    claims = {"sub": "id-7", "email": "ada@corp", "groups": ["ml-team"], **said}
    provider = Provider(ProviderConfig("https://x", "b", roles_claim="groups", roles=ROLES))

    assert provider._identity(claims).user == user
