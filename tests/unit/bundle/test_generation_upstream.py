"""A server elsewhere as an engine: its answers, its failures, its key, and callers that leave."""

from __future__ import annotations

import threading
import time

import pytest
from tests.language_models import asking
from tests.pace import is_within
from tests.stores import free_ports
from tests.upstreams import DONE, FINE, USAGE, event, refusing, sending, upstream
from tests.waiting import until

import bascule
from bascule.bundle.generation import Chunk, Spec, joined, parse_request
from bascule.bundle.generation.chunks import Usage
from bascule.bundle.generation.upstream import UPSTREAMS, UpstreamEngine
from bascule.core import Invalid, ModelFailed, Overloaded, TimedOut, Unavailable
from bascule.settings import load_settings

HELLO = Chunk("Hello", finish="stop", usage=Usage(7, 2, 0))


@pytest.fixture
def server():
    with upstream() as served:
        served.behaviours = [FINE]
        yield served


@pytest.fixture
def engine(server, monkeypatch):
    """`engine()`: asks the server; `engine(key=...)` with what the settings say of the key."""
    engines = []

    def opened(url=None, key="", **fields):
        url = url or server.url
        monkeypatch.setenv(UPSTREAMS, f'{{"{url}": "{key}"}}')
        engines.append(UpstreamEngine(Spec(engine="upstream", upstream=url, model="m", **fields)))
        return engines[-1]

    yield opened
    for made in engines:
        made.close()


def ask(engine, said="Say hello.", cancelled=None):
    return [*engine.generate(parse_request(said), cancelled or threading.Event())]


def test_an_answer_comes_in_the_upstreams_chunks_with_its_usage(engine, server):
    chunks = ask(engine(system="Be kind."), asking("Hi", max_tokens=5, seed=3))
    assert [chunk.text for chunk in chunks] == ["Hel", "lo", ""]
    assert joined(chunks) == HELLO
    (asked,) = server.asked
    assert (asked.path, asked.key) == ("/v1/chat/completions", "")
    assert asked.body == {
        "model": "m", "stream": True, "stream_options": {"include_usage": True},
        "max_tokens": 5, "seed": 3,
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
    }  # fmt: skip


def test_events_may_be_cut_anywhere(engine, server):
    whole = event("Hé") + event("😀") + event("", "length") + USAGE + DONE
    server.behaviours = [sending(*(whole[at : at + 1] for at in range(len(whole))))]
    assert joined(ask(engine())) == Chunk("Hé😀", finish="length", usage=Usage(7, 2, 0))


def test_deltas_of_a_call_become_one_call_where_the_answer_is_whole(engine, server):
    def delta(index, **function):
        call = {"index": index, "id": f"c{index}", "type": "function", "function": function}
        return event("", None, choices=[{"delta": {"tool_calls": [call]}}])

    server.behaviours = [
        sending(
            delta(0, name="f", arguments=""),
            delta(0, arguments='{"x": '), delta(0, arguments="1}"),
            delta(1, name="g", arguments="{}"), event("", "tool_calls"), DONE,
        )
    ]  # fmt: skip
    said = joined(ask(engine()))
    assert [call["function"] for call in said.tool_calls] == [
        {"name": "f", "arguments": '{"x": 1}'}, {"name": "g", "arguments": "{}"}
    ]  # fmt: skip
    assert said.usage == Usage(0, 4, 0), "counted by events where the upstream does not count"


def test_log_probabilities_without_bytes_get_those_of_their_token(engine, server):
    told = {"token": "é", "logprob": -0.5, "bytes": None, "top_logprobs": []}
    choice = {"delta": {"content": "é"}, "logprobs": {"content": [told]}}
    server.behaviours = [sending(event("", None, choices=[choice]), event("", "stop"), DONE)]
    (said,) = joined(ask(engine(extra={"top_k": 1}))).logprobs
    assert (said.bytes, said.logprob) == ([0xC3, 0xA9], -0.5)
    assert server.asked[0].body["top_k"] == 1


@pytest.mark.parametrize("code", [429, 503])
def test_a_refused_request_is_sent_again(engine, server, code):
    server.behaviours = [refusing(code), FINE]
    assert joined(ask(engine())) == HELLO
    assert len(server.asked) == 2


def test_a_stream_that_breaks_before_its_first_token_is_asked_for_again(engine, server):
    server.behaviours = [sending(), FINE]
    assert joined(ask(engine())) == HELLO
    assert len(server.asked) == 2


HALF = event("Hel")


@pytest.mark.parametrize(
    ("behaviour", "error", "part", "times"),
    [
        (refusing(429), Overloaded, "full: because", 3),
        (refusing(500), Unavailable, "answers 500: because", 3),
        (refusing(400), Invalid, "refuses it: because", 1),
        (refusing(404), ModelFailed, "answers 404: because", 1),
        (sending(head=b"HTTP/1.1 302 X\r\nLocation: http://127.0.0.1:1/\r\n\r\n"), ModelFailed,
         "302", 1),
        (sending(HALF), ModelFailed, "broke off", 1),
        (sending(HALF, b"data: {half"), ModelFailed, "broke off", 1),
        (sending(HALF, b"data: {half}\n\n"), ModelFailed, "nonsense", 1),
        (sending(HALF, b"data: []\n\n"), ModelFailed, "nonsense", 1),
        (sending(HALF, b'data: {"choices": 5}\n\n'), ModelFailed, "nonsense", 1),
        (sending(HALF, b"data: " + b"x" * (2 << 20)), ModelFailed, "nonsense", 1),
        (sending(HALF, b'data: {"error": {"message": "CUDA"}}\n\n'), ModelFailed, "CUDA", 1),
        (sending(b"\0\1\2", head=b""), Unavailable, "connection", 3),
        (sending(0.6, HALF), TimedOut, "said nothing for 0.3 s", 1),
        (sending(0.6, head=b""), TimedOut, "said nothing for 0.3 s", 1),
        (sending(HALF, 0.6), TimedOut, "said nothing for 0.3 s", 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_failure_is_told_and_retried_only_before_the_first_token(
    engine, server, behaviour, error, part, times
):
    server.behaviours = [behaviour]
    with pytest.raises(error, match=part):
        ask(engine(timeout_s=0.3))
    assert len(server.asked) == times


def test_a_server_that_is_away_is_unavailable(engine):
    with pytest.raises(Unavailable, match="ConnectError"):
        ask(engine(f"http://127.0.0.1:{free_ports(1)[0]}/v1"))


@pytest.mark.parametrize(
    "behaviour",
    [sending(30.0, head=b""), sending(event("a"), 30.0), sending(*[event("a"), 0.01] * 3_000)],
    ids=["before its headers", "between tokens", "within tokens"],
)
def test_a_caller_that_leaves_ends_the_upstreams_work(engine, server, behaviour):
    server.behaviours = [behaviour]
    opened, cancelled, ended = engine(), threading.Event(), threading.Event()

    def read():
        ask(opened, cancelled=cancelled)
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    until(lambda: server.asked)
    time.sleep(0.1)
    cancelled.set()
    began_s = time.monotonic()
    assert ended.wait(10)
    left_s = until(lambda: server.asked[0].left_s, 10)
    assert is_within(left_s - began_s, 0.2)
    assert len(server.asked) == 1


def test_a_caller_that_leaves_ends_the_retries_too(engine, server):
    server.behaviours = [refusing(503)]
    opened, cancelled = engine(), threading.Event()
    threading.Timer(0.05, cancelled.set).start()
    assert ask(opened, cancelled=cancelled) == []
    assert len(server.asked) < 3


# -- the key and the setting --


def test_the_key_goes_to_the_upstream_and_is_read_again_when_it_was_replaced(
    engine, server, tmp_path
):
    file = tmp_path / "key"
    file.write_text("first\n")
    opened = engine(key=f"file:{file}")
    ask(opened)
    file.write_text("second\n")
    ask(opened)
    server.behaviours = [refusing(401), FINE]
    assert joined(ask(opened)) == HELLO
    bearers = [asked.key for asked in server.asked]
    assert bearers == ["Bearer first", "Bearer first", "Bearer first", "Bearer second"]


def test_a_wrong_key_is_told_without_the_answer_that_may_quote_it(engine, server, monkeypatch):
    monkeypatch.setenv("KEY", "sk-1")
    server.behaviours = [refusing(401, "wrong key: sk-1")]
    with pytest.raises(ModelFailed, match="answers 401") as failed:
        ask(engine(key="env:KEY"))
    assert "sk-1" not in str(failed.value)
    assert len(server.asked) == 1


def test_an_upstream_that_the_settings_do_not_name_is_refused_with_the_line_to_add(
    server, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(UPSTREAMS, raising=False)
    model = bascule.TextGeneration(upstream=server.url, model="m")
    with pytest.raises(Unavailable) as refused:
        bascule.pack(model, name="chat", to="chat")
    assert f'under [upstreams]: "{server.url}" = "env:KEY"' in refused.value.hint
    assert not server.asked

    (tmp_path / "bascule.toml").write_text(f'[upstreams]\n"{server.url}" = ""\n')
    load_settings()
    packed = bascule.pack(model, name="chat", to="chat", measure=False)
    assert packed.predict({"request": ["Hi"]})["text"].tolist() == ["Hello"]
    assert b"original/weights" not in b"".join(map(str.encode, packed.manifest.files))


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('"vllm:8000" = "env:KEY"', "begins with http"),
        ('"http://vllm:8000/v1" = "sk-secret"', "a key is not written here"),
    ],
)
def test_a_wrong_line_of_the_settings_is_refused(tmp_path, line, part):
    (tmp_path / "bascule.toml").write_text(f"[upstreams]\n{line}\n")
    with pytest.raises(Invalid, match=part) as refused:
        load_settings(tmp_path, {})
    assert "sk-secret" not in str(refused.value)


def test_the_setting_may_come_from_the_environment(tmp_path):
    environ = {"BASCULE_UPSTREAMS": '{"http://vllm:8000/v1": "env:KEY"}'}
    assert load_settings(tmp_path, environ).upstreams == {"http://vllm:8000/v1": "env:KEY"}


def test_an_engine_in_a_child_process_does_not_see_the_upstreams(monkeypatch):
    from bascule.bundle.programs import child

    assert UPSTREAMS not in child._KEPT_VARIABLES
    assert "BASCULE_UPSTREAMS" not in child._KEPT_VARIABLES
