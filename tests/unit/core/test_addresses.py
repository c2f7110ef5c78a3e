"""No secret of an address is shown, however the address is malformed."""

from __future__ import annotations

import pytest

from bascule.app import open_registry
from bascule.core.addresses import masked, masked_text, without_secrets
from bascule.core.errors import BasculeError, Invalid
from bascule.settings import load_settings
from bascule_client.addresses import parse_address

SECRET = "hunter2"
ADDRESSES = [
    "postgresql:/ada:hunter2@db/x", "postgresql:ada:hunter2@db/x", "postgresql:///ada:hunter2@db/x",
    "ada:hunter2@db/x", "//ada:hunter2@db/x", "postgres://ada:hunter2@db:5432/x",
    "postgresql+psycopg:/ada:hunter2@db/x", "postgresql:/ada:pa/hunter2@db/x",
    "postgresql://ada:pa@hunter2@db/x", "mysql://ada:hunter2#@db/x", "POSTGRESQL:/ADA:hunter2@DB",
    "s3:/AKIA:hunter2@bucket/prefix", "s3://AKIA:hunter2@bucket", "https://hunter2@git.example/x.git",
    "git+https:/hunter2@git.example/x", "postgresql:/db/x?password=hunter2",
    "postgresql:/db/x?user=ada&sslpassword=hunter2", "postgresql:/db/x?pass%77ord=hunter2",
    "s3:/bucket/x?aws_secret_access_key=hunter2", "s3:/bucket?X-Amz-Signature=hunter2&x=1",
    "host=db user=ada password=hunter2", "host=db password='a hunter2' port=1",
    "jdbc:postgresql://ada:hunter2@db/x", "https://acc.example/x?sig=hunter2",
    "postgresql:/ada:hunter2%40@db/x;password=hunter2",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_secret_is_in_a_masked_address_nor_in_a_sentence_with_it(address):
    assert SECRET not in masked(address)
    for sentence in (f"{address!r} is no place", f"at {address}: refused", f"<{address}>"):
        assert SECRET not in masked_text(sentence)


@pytest.mark.parametrize(
    "text",
    [
        "late@champion is not there", "the registry at postgresql://ada@db:5432/x is busy",
        "write s3://BUCKET/PREFIX", "input `x` takes a@b.example", "sha256:00ff",
        "http://127.0.0.1:8080/v2/models/late", "a = b, c >= 0.8", "email ada@example.com",
        "GET /models?limit=10&after=late", "model@sha256:00ff",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert masked_text(text) == text


@pytest.mark.parametrize("part", ["x", "?", "a:", "/", "a@", "=", "'", " ", "x=", "&a", ":/"])
def test_a_long_text_is_masked_quickly(part):
    import time

    started = time.process_time()
    for text in (part * 100_000, part * 100_000 + " a=b c@d", "password=" + part * 100_000):
        masked_text(text)
        masked(text)
        without_secrets(text)
    assert time.process_time() - started < 2.0


def test_what_is_published_has_neither_user_nor_query():
    assert without_secrets("https:/ada:a/hunter2@git.example/x?t=1 b") == "https:/git.example/x b"


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "name", ["REGISTRY__STORE", "REGISTRY__OBJECTS", "SERVING__TRACE_ENDPOINT"]
)
def test_settings_show_no_secret_of_an_address(tmp_path, address, name):
    try:
        settings = load_settings(tmp_path, {f"BASCULE_{name}": address})
    except BasculeError as error:
        text = error.message + error.hint
    else:
        text = repr(settings)
    assert SECRET not in text


def test_a_value_that_is_no_text_is_masked_too(tmp_path):
    (tmp_path / "bascule.toml").write_text('[registry]\nstore = ["postgresql://a:hunter2@db/x"]\n')
    with pytest.raises(Invalid) as refused:
        load_settings(tmp_path, {})
    assert SECRET not in refused.value.message


def test_a_password_that_is_cut_in_two_is_not_shown_as_a_host(tmp_path):
    settings = load_settings(
        tmp_path, {"BASCULE_REGISTRY__STORE": "postgresql://ada:pa@hunter2@db/x"}
    )
    with pytest.raises(Invalid, match="not the address") as refused:
        open_registry(settings)
    assert SECRET not in refused.value.message


@pytest.mark.parametrize(
    "url", ["htp://ada:hunter2@h", "http://:hunter2@h", "unix:", "h:hunter2@x"]
)
def test_an_address_of_a_server_shows_no_secret(url):
    with pytest.raises(Invalid) as refused:
        parse_address(url)
    assert SECRET not in refused.value.message


@pytest.mark.parametrize("address", ["postgresql:/ada:hunter2@db/x", "s3:/AKIA:hunter2@b/x"])
@pytest.mark.parametrize("words", [["doctor"], ["doctor", "--json"], ["list"], ["serve", "x"]])
def test_no_command_prints_a_secret(command, monkeypatch, tmp_path, address, words):
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "OBJECTS"):
        with monkeypatch.context() as patch:
            patch.setenv(f"BASCULE_REGISTRY__{name}", address)
            _, out, err = command(*words)
        assert SECRET not in out + err
    _, out, err = command("serve", address)
    assert SECRET not in out + err


def test_no_log_line_shows_a_secret(capsys):
    import logging

    from bascule.serving.telemetry.logs import start_logging

    before = logging.root.handlers[:]
    try:
        for form in ("text", "json"):
            start_logging(form)
            try:
                raise ValueError(f"no database at {ADDRESSES[0]}")
            except ValueError:
                logging.getLogger("x").exception("cannot export to %s", ADDRESSES[1])
        said = capsys.readouterr().err
    finally:
        logging.root.handlers[:] = before
    assert SECRET not in said
    assert said.count("***") >= 2
