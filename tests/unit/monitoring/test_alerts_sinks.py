"""Sinks send to real receivers: HTTP servers, a mail server, Prometheus' Alertmanager."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import ssl
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from tests.receivers import dripping, hook
from tests.stores import free_ports, wait_for

from bascule.core import Invalid, Unavailable
from bascule.monitoring.alerts import Finding, Notification, shown
from bascule.monitoring.alerts.advancing import Alert
from bascule.monitoring.alerts.sinks import SINKS, Receiver, open_sink, signature

NOW = datetime.now(UTC)
SAID = "late/1 on one: 30 of 100 requests failed <!channel> & more: 30.0%, limit 1.0%"


def notification(kind="firing", count=1, **changes):
    finding = Finding("health", "error_share", "late", "critical", SAID, 0.3, 0.01, NOW, "1")
    state = "resolved" if kind == "resolved" else "firing"
    alert = shown(Alert(finding, state, NOW - timedelta(minutes=1)), None, "https://models:8082/")
    return replace(Notification("n1", "it", kind, "late", NOW, (alert,) * count), **changes)


def receiver(kind, **settings):
    return Receiver(name="it", kind=kind, **{"timeout_s": 5.0, **settings})


def test_a_webhook_is_sent_the_alerts_signed_and_with_the_id_of_the_notification():
    with hook() as there:
        open_sink(receiver("webhook", url=there.url, secret="s3cret")).send(notification())
    ((headers, body),) = there.requests
    at_s = headers["Bascule-Signature"].partition(",")[0].removeprefix("t=")
    made = hmac.new(b"s3cret", f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    assert (
        headers["Bascule-Signature"]
        == f"t={at_s},v1={made}"
        == signature(b"s3cret", body, int(at_s))
    )
    assert abs(int(at_s) - time.time()) < 60
    assert headers["Idempotency-Key"] == "n1"
    said = json.loads(body)
    assert (said["kind"], said["model"], said["title"]) == ("firing", "late", "late: 1 alert")
    (alert,) = said["alerts"]
    assert (alert["sentence"], alert["value"], alert["limit"]) == (SAID, 0.3, 0.01)
    assert alert["link"] == f"https://models:8082/api/v1/alerts/{alert['id']}"


def test_a_redirect_is_not_followed():
    with hook() as elsewhere, hook() as there:
        there.answers = [(307, {"Location": elsewhere.url})]
        with pytest.raises(Unavailable, match="answered 307"):
            open_sink(receiver("webhook", url=there.url)).send(notification())
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("said", "least_s", "most_s"),
    [
        ("7", 7, 7),
        ("99999", 3_600, 3_600),
        ("-3", 0, 0),
        ("soon", 0, 0),
        ("in a minute", 50, 61),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0),
    ],
)
def test_a_receiver_may_say_when_to_try_again(said, least_s, most_s):
    if said == "in a minute":
        said = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    with hook() as there:
        there.answers = [(503, {"Retry-After": said})]
        with pytest.raises(Unavailable) as problem:
            open_sink(receiver("webhook", url=there.url)).send(notification())
    assert least_s <= problem.value.facts["retry_after_s"] <= most_s


@pytest.mark.parametrize(
    ("scheme", "drip"),
    [
        *(("http", drip) for drip in ("continue", "status", "header", "refusal", "silence")),
        ("https", "header"),
    ],
)
def test_a_receiver_that_never_finishes_its_answer_is_left_at_the_deadline(scheme, drip):
    """A timeout of each read begins anew at each byte: such a receiver held all alerts for ever."""
    with dripping(drip) as port:
        sink = open_sink(receiver("webhook", url=f"{scheme}://127.0.0.1:{port}", timeout_s=0.4))
        began = time.monotonic()
        with pytest.raises(Unavailable):
            sink.send(notification())
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("security", ["none", "tls", "starttls"])
def test_a_mail_server_that_never_finishes_its_greeting_is_left_at_the_deadline(security):
    with dripping("greeting") as port:
        settings = {"host": "127.0.0.1", "port": port, "security": security, "timeout_s": 0.4}
        sink = open_sink(receiver("mail", sender="a@b.example", to=("c@d.example",), **settings))
        began = time.monotonic()
        with pytest.raises(Unavailable):
            sink.send(notification())
    assert time.monotonic() - began < 2


def test_secrets_come_from_the_environment_or_a_file_and_are_never_shown(tmp_path, monkeypatch):
    with hook() as there:
        monkeypatch.setenv("HOOK_URL", there.url)
        (tmp_path / "secret").write_text("s3cret\n")
        made = receiver("webhook", url="env:HOOK_URL", secret=f"file:{tmp_path / 'secret'}")
        open_sink(made).send(notification())
    assert made.secret_of("secret") == "s3cret"
    assert "s3cret" not in repr(replace(made, secret="s3cret", url="http://s3cret"))
    monkeypatch.delenv("HOOK_URL")
    with pytest.raises(Invalid, match=r"alerts.receivers.it.url: the variable HOOK_URL is not set"):
        open_sink(made).send(notification())
    (tmp_path / "secret").unlink()
    monkeypatch.setenv("HOOK_URL", there.url)
    with pytest.raises(Invalid, match="cannot be read"):
        open_sink(made).send(notification())


@pytest.mark.parametrize("kind", SINKS)
def test_a_sink_without_a_required_setting_names_it(kind):
    with pytest.raises(Invalid, match=rf"alerts.receivers.it.{SINKS[kind][1][0]}"):
        open_sink(receiver(kind))


@pytest.mark.parametrize("url", ["hooks.example.com/s3cret", "http://[s3cret", "http://h:s3cret/"])
def test_an_address_that_is_none_is_refused_and_not_quoted(url):
    with pytest.raises(Invalid, match=r"alerts.receivers.it.url: it is not http") as problem:
        open_sink(receiver("webhook", url=url)).send(notification())
    assert "s3cret" not in problem.value.message


def test_a_path_that_cannot_be_sent_is_not_quoted():
    with hook() as there, pytest.raises(Unavailable) as problem:
        open_sink(receiver("webhook", url=there.url + "/s3cret\x7f")).send(notification())
    assert "s3cret" not in problem.value.message


def test_slack_is_sent_text_and_blocks_in_which_nothing_is_a_mention():
    with hook() as there:
        open_sink(receiver("slack", url=there.url)).send(notification(count=60))
    (said,) = there.bodies
    assert said["text"] == "late: 60 alerts"
    texts = [block["text"]["text"] for block in said["blocks"]]
    assert all(block["type"] == "section" for block in said["blocks"])
    assert "&lt;!channel&gt; &amp; more" in texts[1]
    assert len(texts) <= 50
    assert texts[-1] == "40 more: bascule alerts list"


class Mails:
    def __init__(self):
        self.mails = []

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        if address.startswith("gone"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        self.mails.append((session.ssl is not None, envelope.rcpt_tos, envelope.content.decode()))
        return "250 OK"


@contextmanager
def mail_server(**settings):
    handler = Mails()
    server = Controller(handler, hostname="127.0.0.1", port=free_ports(1)[0], **settings)
    server.start()
    try:
        yield handler, server.port
    finally:
        server.stop()


def mail(port, **settings):
    plain = {"host": "127.0.0.1", "port": port, "security": "none", "sender": "b@example.com"}
    return receiver("mail", **{**plain, "to": ("ada@example.com", "bob@example.com"), **settings})


def test_a_mail_has_the_sentences_and_an_id_that_stays():
    with mail_server() as (server, port):
        open_sink(mail(port)).send(notification())
    ((_, to, text),) = server.mails
    assert to == ["ada@example.com", "bob@example.com"]
    assert "Subject: [bascule] late: 1 alert" in text
    assert "Message-ID: <n1@bascule>" in text
    assert "30 of 100 requests failed" in text
    assert "acknowledge: bascule alerts ack" in text


def test_a_mail_is_sent_with_a_login_over_starttls(authority, monkeypatch):
    certificate, key = authority("server")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))
    monkeypatch.setenv("MAIL_PASSWORD", "s3cret")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    asked = []

    def login(server, session, envelope, mechanism, data):
        asked.append((data.login, data.password))
        return AuthResult(success=data.password == b"s3cret")

    settings = {"security": "starttls", "user": "bascule", "password": "env:MAIL_PASSWORD"}
    checked = {"authenticator": login, "auth_required": True}
    with mail_server(tls_context=context, **checked) as (server, port):
        open_sink(mail(port, **settings)).send(notification())
        monkeypatch.setenv("MAIL_PASSWORD", "wrong-one")
        with pytest.raises(Unavailable) as problem:
            open_sink(mail(port, **settings)).send(notification())
    assert [mail[0] for mail in server.mails] == [True]
    assert asked[0] == (b"bascule", b"s3cret")
    assert "wrong-one" not in problem.value.message


def test_a_mail_server_without_starttls_gets_no_password():
    with mail_server() as (server, port):
        sink = open_sink(mail(port, security="starttls", user="bascule", password="s3cret"))
        with pytest.raises(Unavailable, match="STARTTLS"):
            sink.send(notification())
    assert server.mails == []


def test_an_address_that_cannot_be_one_is_named():
    with pytest.raises(Invalid, match=r"alerts.receivers.it.to"):
        open_sink(mail(1, to=("ada@example.com\nBcc: eve@example.com",))).send(notification())


def test_an_address_that_is_refused_keeps_no_other_from_its_mail():
    with mail_server() as (server, port):
        open_sink(mail(port, to=("gone@example.com", "ada@example.com"))).send(notification())
    assert [to for _, to, _ in server.mails] == [["ada@example.com"]]


def alertmanager_program():
    found = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    assert found, "Alertmanager is missing: apt-get install prometheus-alertmanager"
    return found


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alertmanager")
    port = free_ports(1)[0]
    (folder / "config.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                alertmanager_program(), f"--config.file={folder / 'config.yml'}",
                f"--storage.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
            stdout=output, stderr=output, env=os.environ,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def ready():
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    try:
        wait_for(ready, process, log)
        yield url
    finally:
        process.terminate()
        process.wait()


def alerts_at(url):
    with urllib.request.urlopen(f"{url}/api/v2/alerts?active=true", timeout=5) as answer:
        return json.load(answer)


def test_an_alertmanager_takes_an_alert_and_its_end(alertmanager):
    sink = open_sink(receiver("alertmanager", url=alertmanager))
    sink.send(notification())
    (alert,) = alerts_at(alertmanager)
    assert alert["labels"]["alertname"] == "bascule_error_share"
    assert (alert["labels"]["model"], alert["labels"]["severity"]) == ("late", "critical")
    assert alert["annotations"]["summary"] == SAID
    assert alert["generatorURL"].startswith("https://models:8082/api/v1/alerts/")
    sink.send(notification("repeated"))
    assert len(alerts_at(alertmanager)) == 1
    sink.send(notification("resolved"))
    assert alerts_at(alertmanager) == []
