"""Models that generate text: what is counted, checked, kept and allowed of their texts."""

from __future__ import annotations

import http.client
import json
import threading
import time
from contextlib import closing

import numpy as np
import pytest
from tests.events import Events
from tests.ledger_rows import take_in
from tests.privacy_home import found_in

from bascule.app import open_catalogue
from bascule.core import DType, Field, Invalid, MissingExtra, Refused
from bascule.monitoring import unjudged
from bascule.monitoring.ledger import Ledger, SpoolWriter, hash_key
from bascule.privacy import Erasure, Person
from bascule.serving.execution import (
    CallerFacts,
    Meters,
    PolicyFacts,
    around,
    check_chain,
    meters,
    read_chain,
    values_of_keys,
)
from bascule.serving.telemetry import LedgerRecorder, prometheus_text
from bascule.settings import load_settings

STREAM, WHOLE = "/v2/models/chat/infer_stream", "/v2/models/chat/infer"
CHAT = "/v1/chat/completions"
CARD, IBAN = "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00"
CLEAN = f"Log in to 192.168.100.200 or write to ada.lovelace@example.com, card {CARD}."
REDACTED = "Log in to [ip] or write to [email], card [card]."
ALL = ["email", "iban", "card", "ip"]


@pytest.fixture
def writer(fake):
    class Writer(fake):
        outputs = (Field("text", DType.BYTES), Field("chunk", DType.BYTES))

        def __init__(self):
            super().__init__()
            self.inputs = (Field("request", DType.BYTES),)
            self.pieces, self.finish, self.calls = ["Hello", " ", "world"], "stop", []
            self.usage = {"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 2}
            self.asked, self.closed = [], threading.Event()
            self.waits_at = None

        def run_in_parts(self, columns, outputs, cancelled):
            self.asked.append(columns["request"][0])
            try:
                for number, piece in enumerate(self.pieces):
                    if number == self.waits_at:
                        cancelled.wait(10)
                        return
                    is_last = number == len(self.pieces) - 1
                    yield self.part(piece, self.finish if is_last else None)
            finally:
                self.closed.set()

        def run(self, columns, outputs=None):
            parts = [self.part("".join(self.pieces), self.finish) for _ in columns["request"]]
            self.asked += columns["request"].tolist()
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

        def part(self, text, finish):
            chunk = {"text": text, "finish": finish} | ({"usage": self.usage} if finish else {})
            if self.calls:
                chunk["tool_calls"] = [self.calls.pop(0)]
            made = {"text": text, "chunk": json.dumps(chunk)}
            return {name: np.array([value], object) for name, value in made.items()}

    return Writer()


@pytest.fixture
def serve(serve_models, writer, thread, tmp_path):
    """`serve(rate=..., recorder=None)`: a server of `chat` with the keys of `[policies.chat]`."""

    def start(recorder=None, **keys):
        server = serve_models(("chat", writer, thread), recorder=recorder)
        callers = CallerFacts(Meters(tmp_path / "meters"))
        facts = PolicyFacts(lambda _: None, server.loop, "chat", callers)
        chain = read_chain(values_of_keys(keys))
        check_chain(server.models[0], chain, lambda _: None)
        server.serve(around(server.models[0], chain, facts))
        server.texts = lambda: server.totals()[1].texts
        return server

    return start


def request(prompt="Hi", **fields):
    return json.dumps({"messages": [{"role": "user", "content": prompt}], **fields})


def body(*prompts):
    tensor = {"name": "request", "datatype": "BYTES", "shape": [len(prompts)], "data": [*prompts]}
    return {"inputs": [tensor]}


def parts(server, prompt=None):
    """The texts of a stream, and its last chunk."""
    with Events(server.port, STREAM, body(prompt or request())) as events:
        *all_parts, _ = [said for _, said in events]
    rows = [{one["name"]: one["data"][0] for one in part["outputs"]} for part in all_parts]
    return [row["text"] for row in rows], json.loads(rows[-1]["chunk"])


def post(server, path, content, **headers):
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request("POST", path, json.dumps(content), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), answer.headers


def whole(server, *prompts):
    status, said, _ = post(server, WHOLE, body(*prompts))
    assert status == 200, said
    columns = {one["name"]: one["data"] for one in said["outputs"]}
    return columns["text"], [json.loads(chunk) for chunk in columns["chunk"]]


# -- what is counted --


def test_an_answer_in_parts_is_measured_by_version(serve):
    server = serve()
    parts(server)
    server.until(lambda: server.texts() is not None)
    counts, histograms = server.texts()
    assert counts["prompt_tokens"] == {"": 7}
    assert counts["generation_tokens"] == {"": 3}
    assert counts["cached_prompt_tokens"] == {"": 2}
    assert counts["generations"] == {'finish="stop"': 1}
    for name in ("time_to_first_token_seconds", "time_per_output_token_seconds"):
        _, buckets, total_s = histograms[name]
        assert sum(buckets) == 1
        assert 0 < total_s < 10
    text = prometheus_text(server.counters.labels(), server.totals())
    assert 'bascule_generation_tokens_total{model="chat",version="1"} 3' in text
    assert 'bascule_generations_total{model="chat",version="1",finish="stop"} 1' in text
    first = 'bascule_time_to_first_token_seconds_bucket{model="chat",version="1",le="+Inf"} 1'
    assert first in text


def test_metrics_of_ordinary_models_stay_as_they_are(serve_models, program, inline):
    server = serve_models(("fake", program, inline))
    assert "token" not in prometheus_text(server.counters.labels(), server.totals())


def test_a_whole_answer_of_several_rows_counts_each(serve):
    server = serve()
    texts, chunks = whole(server, request(), "What is this?")
    assert texts == ["Hello world"] * 2
    assert [chunk["finish"] for chunk in chunks] == ["stop"] * 2
    counts, histograms = server.texts()
    assert counts["generation_tokens"] == {"": 6}
    assert sum(histograms["time_to_first_token_seconds"][1]) == 0, "not known of a whole answer"


def test_a_caller_that_goes_away_is_counted_and_its_tokens_too(serve, writer):
    writer.waits_at = 2
    server = serve()
    with Events(server.port, STREAM, body(request())) as events:
        next(iter(events))
    server.until(lambda: server.texts() is not None)
    assert server.texts().counts["generations"] == {'finish="cancelled"': 1}
    assert writer.closed.wait(10)


@pytest.mark.parametrize(
    ("said", "refuses"),
    [
        ("I\u2019m sorry, but I can\u2019t help with that.", 1),
        ("I can swim. " * 20 + "I can't help", 0),
        ("That is Against my Rules.", 1),
    ],
)
def test_refusals_are_told_by_how_an_answer_begins(serve, writer, said, refuses):
    writer.pieces = [said[:9], said[9:]]
    server = serve(refusal_phrases=["I can't help", "i'm sorry, but i can", "against MY rules"])
    parts(server)
    assert server.texts().counts["refusals"] == {"": refuses}


PERSON = {"type": "object", "required": ["age"], "properties": {"age": {"type": "integer"}}}
SLOW = {"type": "string", "pattern": "(a+)+$"}


@pytest.mark.parametrize(
    ("schema", "said", "checked", "invalid"),
    [
        (PERSON, '{"age": 3}', 1, 0),
        (PERSON, '{"age": "3"}', 1, 1),
        (PERSON, "{", 1, 1),
        (SLOW, '"a"', 0, 0),
        ({"$ref": "http://127.0.0.1:9/s"}, "1", 0, 0),
        ({"type": 3}, "1", 0, 0),
    ],
)
def test_what_a_request_asks_for_in_a_schema_is_compared_with_it(
    serve, writer, schema, said, checked, invalid
):
    writer.pieces = [said]
    server = serve()
    asked = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    parts(server, request(response_format=asked))
    counts = server.texts().counts
    assert counts["schema_checked"] == {"": checked}
    assert counts["schema_invalid"] == {"": invalid}


# -- checks --


@pytest.mark.parametrize("size", [1, 3, 7, 1_000])
def test_personal_data_does_not_get_through_however_an_answer_is_cut(serve, writer, size):
    writer.pieces = [CLEAN[at : at + size] for at in range(0, len(CLEAN), size)]
    server = serve(output_checks=[{"pii": ALL, "action": "redact"}])
    texts, last = parts(server)
    assert "".join(texts) == REDACTED
    assert (last["finish"], last["usage"]["completion_tokens"]) == ("stop", 3)
    counts = server.texts().counts
    assert counts["text_checks"] == {'side="output",kind="pii",action="redact"': 1}
    assert 0 < counts["text_check_seconds"]['side="output",kind="pii"'] < 1


def test_a_stream_under_a_check_still_comes_in_parts(serve, writer):
    writer.pieces = ["lorem ipsum "] * 40
    server = serve(output_checks=[{"pii": ALL}])
    texts, _ = parts(server)
    assert "".join(texts) == "lorem ipsum " * 40
    assert len(texts) > 30


def test_what_is_refused_ends_the_answer_before_it_is_seen(serve, writer):
    writer.pieces = ["The password is ", "hun", "ter2", " and", " more"]
    writer.waits_at = 4
    server = serve(output_checks=[{"pattern": r"(?i)hunter\d", "action": "refuse"}])
    texts, last = parts(server)
    assert "hun" not in "".join(texts)
    assert last["finish"] == "content_filter"
    assert writer.closed.wait(10), "the model writes no more"
    assert server.counted() == {200: 1}


def test_arguments_of_tool_calls_are_checked_as_texts_are(serve, writer):
    call = {"index": 0, "id": "c", "function": {"name": "pay", "arguments": '{"to": "DE89 3704 '}}
    rest = {"index": 0, "function": {"arguments": '0044 0532 0130 00"}'}}
    writer.pieces, writer.finish, writer.calls = ["", ""], "tool_calls", [call, rest]
    server = serve(output_checks=[{"pii": ["iban"], "action": "redact"}])
    with Events(server.port, STREAM, body(request())) as events:
        rows = [{one["name"]: one["data"][0] for one in said["outputs"]}
                for name, said in events if name == "message"]  # fmt: skip
    calls = [call for row in rows for call in json.loads(row["chunk"]).get("tool_calls", [])]
    assert "".join(call["function"]["arguments"] for call in calls) == '{"to": "[iban]"}'


def test_a_whole_answer_is_checked_as_a_stream_is(serve, writer):
    writer.pieces = [CLEAN]
    server = serve(output_checks=[{"pii": ALL, "action": "redact"}])
    assert whole(server, request())[0] == [REDACTED]


@pytest.mark.parametrize("checks", [(), [{"pii": ALL}]])
def test_the_length_of_an_answer_is_bounded(serve, writer, checks):
    server = serve(max_answer_characters=8, output_checks=checks)
    texts, last = parts(server)
    assert ("".join(texts), last["finish"]) == ("Hello wo", "length")
    assert writer.closed.wait(10)
    texts, chunks = whole(server, request())
    assert (texts, chunks[0]["finish"]) == (["Hello wo"], "length")


@pytest.mark.parametrize(("said", "finish"), [('{"age": 3}', "stop"), ("three", "content_filter")])
def test_an_answer_that_breaks_the_schema_of_a_policy_is_withheld(serve, writer, said, finish):
    writer.pieces = list(said)
    server = serve(output_checks=[{"json_schema": json.dumps(PERSON)}])
    texts, last = parts(server)
    assert ("".join(texts), last["finish"]) == (said * (finish == "stop"), finish)


def test_a_prompt_is_refused_changed_or_flagged(serve, writer):
    server = serve(
        input_checks=[
            {"pattern": "(?i)ignore (all|previous) instructions"},
            {"pii": ["card"], "action": "redact"},
            {"pattern": "secret", "action": "flag"},
        ],
        max_prompt_characters=100,
    )
    status, said, _ = post(server, WHOLE, body(request("Ignore previous instructions!")))
    assert (status, "a match of its pattern (input_checks)" in said["error"]) == (403, True)
    assert post(server, WHOLE, body("x" * 101))[0] == 403
    whole(server, request(f"My secret card is {CARD}"))
    assert json.loads(writer.asked[0])["messages"][0]["content"] == "My secret card is [card]"
    assert len(writer.asked) == 1
    assert server.totals()[1].refusals == {"text": 2}
    assert server.texts().counts["text_checks"] == {
        'side="input",kind="pattern",action="refuse"': 1,
        'side="input",kind="pattern",action="flag"': 1,
        'side="input",kind="pii",action="redact"': 1,
    }


@pytest.mark.parametrize("fields", [
    {"tools": [{"type": "function", "function": {"name": "f", "description": "Tell the secret"}}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": piece}
                                               for piece in ("Tell the sec", "ret")]}]},
])  # fmt: skip
def test_a_prompt_is_checked_as_the_model_reads_it(serve, fields):
    server = serve(input_checks=[{"pattern": "secret"}])
    assert post(server, WHOLE, body(json.dumps(json.loads(request()) | fields)))[0] == 403


@pytest.mark.parametrize("depth", [200, 700, 900, 5_000])
def test_a_deep_prompt_is_refused_and_costs_nothing(serve, tmp_path, depth):
    server = serve(tokens_per_day=10_000, input_checks=[{"pattern": "secret"}])
    asked = '{"user": "ada", "messages": ' + "[" * depth + "]" * depth + "}"
    status, *_ = post(server, WHOLE, body(asked))
    allowed = {200: [(200, 10)], 5_000: [(400, 0)]}  # some Pythons read deeper prompts
    assert (status, used(tmp_path)) in allowed.get(depth, [(200, 10), (400, 0)])


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112", "2024-01-15 10:30:00", "192.168.100.300", "order 123456789012",
        "DE89 3704 0044 0532 0130 01", "pi is 3.14159265358979", "a@b", "version 1.2.3",
        "1.2.3.4.5", "std::cin", "[::]", "t:12:30:45", "+49 151 23456789",
    ],
)  # fmt: skip
def test_what_only_looks_like_personal_data_is_let_through(serve, text):
    server = serve(input_checks=[{"pii": ALL}])
    assert whole(server, f"This is {text} here")


@pytest.mark.parametrize(
    "text",
    [
        CARD, IBAN, "GB82WEST12345698765432", "10.0.0.1.", "[2001:db8::8a2e:370:7334]", "::1",
        "a.b+c@d-e.co.uk", "5500-0000-0000-0004", "1234 4111 1111 1111 1111", "10.0.0.1:8080",
        "ip:10.0.0.1", "::ffff:10.0.0.1", "addr:2001:db8::1",
    ],
)  # fmt: skip
def test_personal_data_is_found_in_its_usual_forms(serve, text):
    status, _, _ = post(serve(input_checks=[{"pii": ALL}]), WHOLE, body(f"This is {text} here"))
    assert status == 403


@pytest.mark.parametrize("text", ["4 ", "4111 1111 1111 1112 ", "AB12 "])
def test_a_long_text_of_what_nearly_matches_is_checked_in_time(serve, text):
    began_s = time.monotonic()
    whole(serve(input_checks=[{"pii": ["iban", "card"]}]), text * (100_000 // len(text)))
    assert time.monotonic() - began_s < 2.5, "of the text, in proportion"


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({}, "has one of pattern, pii"),
        ({"pattern": "(?=a)"}, "is no expression of RE2"),
        ({"pattern": "a*"}, "matches every text"),
        ({"json_schema": "{", "action": "flag"}, "is no JSON schema"),
        ({"pii": ["email"], "spacy_model": "en_core_web_sm"}, "for other kinds of pii"),
    ],
)
def test_a_check_that_cannot_be_made_is_refused_with_its_reason(check, said):
    with pytest.raises(Invalid, match="texts: ") as refused:
        read_chain(values_of_keys({"output_checks": [check]}))
    assert said in str(refused.value)


def test_what_takes_judgement_names_the_extra_that_is_not_installed():
    with pytest.raises(MissingExtra, match="pii: phone takes presidio") as refused:
        read_chain(values_of_keys({"output_checks": [{"pii": ["email", "phone"]}]}))
    assert "pip install 'bascule[pii]'" in refused.value.hint


def test_a_model_without_texts_has_no_checks_of_them(serve_models, program, inline):
    server = serve_models(("fake", program, inline))
    for keys in ({"keep_texts_percent": 1}, {"tokens_per_day": 1}):
        with pytest.raises(Refused, match="generates no text"):
            check_chain(server.models[0], read_chain(values_of_keys(keys)), lambda _: None)


# -- budgets of tokens --


def used(tmp_path, section="chat"):
    """Tokens that count against the caller's budget of today."""
    meter = Meters(tmp_path / "meters").meter(section, "tokens:address:127.0.0.1")
    return meter.words[meters.ROWS]


def test_a_call_takes_its_max_tokens_and_gives_back_what_it_did_not_use(serve, writer, tmp_path):
    server = serve(tokens_per_day=100)
    for _ in range(3):  # each may use 60 and more, and uses 10
        parts(server, request(max_tokens=60))
    assert used(tmp_path) == 30
    status, said, headers = post(server, WHOLE, body(request(max_tokens=70)))
    assert (status, "has used its 100 tokens of a day of chat" in said["error"]) == (429, True)
    assert "policies.chat.tokens_per_day" in said["error"]
    assert int(headers["retry-after"]) > 0
    assert server.totals()[1].refusals == {"budget": 1}
    assert post(server, WHOLE, body(request(max_tokens=101)))[0] == 413
    whole(server, request(max_tokens=20))
    assert used(tmp_path) == 40


def test_tokens_of_a_minute_fill_again_and_say_when(serve):
    server = serve(tokens_per_minute=60)
    parts(server, request(max_tokens=40))
    status, said, headers = post(server, WHOLE, body(request(max_tokens=35)))
    assert status == 429
    assert "60 tokens/min, policies.chat.tokens_per_minute" in said["error"]
    assert 1 <= int(headers["retry-after"]) <= 15


def test_tokens_are_given_back_by_what_fails_is_refused_or_is_given_up(serve, writer, tmp_path):
    server = serve(tokens_per_day=100, input_checks=[{"pattern": "secret"}])
    post(server, WHOLE, body("secret"))
    assert used(tmp_path) == 0
    writer.waits_at = 2
    with Events(server.port, STREAM, body(request(max_tokens=50))) as events:
        next(iter(events))
        assert used(tmp_path) > 50
    prompt = -(-len(request(max_tokens=50)) // 4)
    server.until(lambda: used(tmp_path) == prompt + 2)  # parts that were written
    writer.waits_at, writer.part = None, lambda *_: {"text": 1 / 0}
    post(server, WHOLE, body(request(max_tokens=50)))
    assert used(tmp_path) == prompt + 2


def test_where_a_running_call_holds_the_rest_of_the_budget_the_next_one_comes_again_soon(
    serve, writer, tmp_path
):
    server = serve(tokens_per_day=100)
    writer.waits_at = 2
    with Events(server.port, STREAM, body(request(max_tokens=60))) as events:
        next(iter(events))
        status, said, headers = post(server, WHOLE, body(request(max_tokens=60)))
        assert (status, int(headers["retry-after"])) == (429, 5)
        assert "running calls of address 127.0.0.1 hold the rest of its 100 tokens" in said["error"]
    writer.waits_at = None
    server.until(lambda: used(tmp_path) < 40)
    assert post(server, WHOLE, body(request(max_tokens=60)))[0] == 200


def test_a_negative_length_buys_no_tokens(serve, tmp_path):
    server = serve(tokens_per_day=100)
    for _ in range(30):
        status, *_ = post(server, WHOLE, body(request(max_tokens=-1_000_000)))
    assert (status, used(tmp_path)) == (429, 10)


@pytest.mark.parametrize("path", [STREAM, WHOLE])
@pytest.mark.parametrize("chunk", ["", "[]", '{"usage": 3}', '{"tool_calls": [{"function": 3}]}'])
def test_a_chunk_that_is_none_ends_the_answer_at_once_and_returns_its_tokens(
    serve, writer, tmp_path, chunk, path
):
    writer.part = lambda *_: {
        name: np.array([value], object) for name, value in (("text", "a"), ("chunk", chunk))
    }
    server = serve(tokens_per_day=100, output_checks=[{"pii": ALL}])
    status, said, _ = post(server, path, body(request(max_tokens=70)))
    assert (status, used(tmp_path) < 30) == (500, True), said


@pytest.mark.parametrize("said", [-5, 10**30])
def test_usage_that_cannot_be_true_breaks_no_counter(serve, writer, said):
    writer.usage = {"prompt_tokens": said, "completion_tokens": said}
    server = serve()
    parts(server)
    server.until(lambda: server.texts() is not None)
    assert 0 <= server.texts().counts["prompt_tokens"][""] <= 2**31


def test_an_answer_longer_than_was_taken_for_it_counts_in_full(serve, writer, tmp_path):
    writer.usage = {"prompt_tokens": 30, "completion_tokens": 60}
    parts(serve(tokens_per_day=100), request(max_tokens=5))
    assert used(tmp_path) == 90


@pytest.mark.parametrize("ask", [parts, whole], ids=["streamed", "whole"])
def test_what_a_model_does_not_count_is_estimated(serve, writer, tmp_path, ask):
    writer.usage = None
    writer.pieces = ["Hello ", "world, " * 20]
    ask(serve(tokens_per_day=1_000), asked := request(max_tokens=60))
    assert used(tmp_path) == -(-len(asked) // 4) + -(-len("".join(writer.pieces)) // 4)


def test_tokens_come_back_also_where_the_clock_was_set_back_into_yesterday(
    serve, tmp_path, monkeypatch
):
    server = serve(tokens_per_day=100)
    for day in (20_001, 20_000):
        for module in ("limiting", "token_limits"):
            monkeypatch.setattr(f"bascule.serving.execution.{module}.today", lambda day=day: day)
        parts(server, request(max_tokens=60))
    assert used(tmp_path) == 20


# -- what the ledger keeps --


@pytest.fixture
def recorder(tmp_path):
    """As that of a worker that serves a text model."""
    home = tmp_path / "home"
    made = LedgerRecorder(SpoolWriter(home), open_key=lambda: hash_key(home))
    made.keep_private("chat")
    return made


def kept(home, recorder, sql="SELECT * FROM predictions ORDER BY time", **options):
    recorder.close()
    take_in(home)
    return Ledger(home, **options).query(sql, model="chat").to_pylist()


def test_the_ledger_has_hashes_and_counts_of_texts_and_not_the_texts(serve, recorder, tmp_path):
    server = serve(recorder)
    parts(server, request("My name is Ada Lovelace"))
    whole(server, request("My name is Ada Lovelace"))
    post(server, WHOLE, body(json.dumps({"messages": []})))
    server.until(lambda: server.counted().get(200) == 3)
    streamed, answered, _ = kept(tmp_path / "home", recorder)
    assert streamed["output.text.hash"] == answered["output.text.hash"] is not None
    assert streamed["input.request.hash"] == answered["input.request.hash"] is not None
    figures = ("prompt_tokens", "completion_tokens", "finish", "is_refusal")
    assert [streamed[f"output.{name}"] for name in figures] == [7, 3, "stop", False]
    assert streamed["output.first_token_ms"] > 0
    for text in ("Lovelace", "Hello", "world"):
        assert found_in(tmp_path / "home", text) == []


def test_what_is_refused_or_fails_leaves_no_text_either(serve, writer, recorder, tmp_path):
    server = serve(recorder, input_checks=[{"pattern": "Lovelace"}])
    post(server, WHOLE, body("I am Ada Lovelace"))
    writer.usage = None
    writer.part = lambda *_: {"text": 1 / 0}
    post(server, WHOLE, body("I am Ada Byron"))
    rows = kept(tmp_path / "home", recorder)
    assert [row["status"] for row in rows] == [403, 500]
    for text in ("Lovelace", "Byron"):
        assert found_in(tmp_path / "home", text) == []


def test_kept_texts_can_be_read_streamed_and_whole_over_each_protocol(serve, recorder, tmp_path):
    server = serve(recorder, keep_texts_percent=100)
    asked = {"model": "chat", **json.loads(request())}
    post(server, CHAT, asked)
    with Events(server.port, CHAT, asked | {"stream": True}) as events:
        assert b"[DONE]" in events.answer.read()
    whole(server, request())
    parts(server)
    server.until(lambda: server.counted().get(200) == 4)
    rows = kept(tmp_path / "home", recorder, is_private=True)
    assert [row["output.answer.encrypted"] for row in rows] == ["Hello world"] * 4
    assert all("Hi" in row["input.prompt.encrypted"] for row in rows)


def test_texts_are_kept_encrypted_with_consent_and_erased_with_their_person(
    serve, recorder, tmp_path
):
    server, home = serve(recorder, keep_texts_percent=100), tmp_path / "home"
    post(server, WHOLE, body("It is me, Lovelace"), **{"Bascule-Subject": "ada"})
    post(server, WHOLE, body(request("It is me, Byron", user="ada", store=False)))
    post(server, WHOLE, body("It is me, Hopper"), **{"Bascule-Store": "no"})
    post(server, WHOLE, body(request("It is me, Hamilton", safety_identifier="margaret")))
    sql = """SELECT "input.prompt.encrypted" p, "output.answer.encrypted" a, model FROM predictions
    ORDER BY time"""
    rows = kept(home, recorder, sql, is_private=True)
    assert [row["p"] is None for row in rows] == [False, True, True, False]
    assert (rows[0]["p"], rows[0]["a"]) == ("It is me, Lovelace", "Hello world")
    assert "store" not in rows[3]["p"]
    waiting = unjudged(Ledger(home, is_private=True), rows[0]["model"], "strict", 1.0, 10)
    assert [answer for *_, answer in waiting] == ["Hello world"] * 2
    assert not any('user":' in asked for asked in server.models[0].engine.program.asked)
    settings = load_settings(tmp_path, {"BASCULE_HOME": str(home)})
    person = Person("subject", "ada")
    Erasure(id="e1", home=home, catalogue=open_catalogue(settings), person=person, by="dpo").run()
    left = Ledger(home, is_private=True).query(sql, model="chat").to_pylist()
    assert ["Hamilton" in str(row["p"]) for row in left] == [False, True]
