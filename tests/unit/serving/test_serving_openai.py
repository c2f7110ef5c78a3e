"""OpenAI's API over a server: what the model gets, what its clients read, and who may ask."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from tests.events import Events

from bascule.core import DType, Field, Overloaded, Program, Signature
from bascule.security.keys import Permission, create_key
from bascule.serving.transports.authenticator import Authenticator

CHAT, TEXT, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = {"model": "late", "messages": [{"role": "user", "content": "say: hello"}]}
TOKEN = {"token": "a", "bytes": [97], "logprob": -0.5, "top_logprobs": []}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}
END = {"text": "", "finish": "stop", "usage": USAGE}


class Writer(Program):
    """Gives `chunks`; waits before the chunk `waits_at` until it is cancelled."""

    name = "writer"
    inputs = (Field("request", DType.BYTES),)
    outputs = (Field("text", DType.BYTES), Field("chunk", DType.BYTES))
    signature = Signature(inputs, outputs)

    def __init__(self):
        self.chunks = [{"text": "hel"}, {"text": "lo"}, END]
        self.requests = []
        self.fails_at = self.waits_at = None
        self.problem = ValueError("secret of the model")
        self.cancelled = threading.Event()

    def run(self, columns, outputs=None):
        raise NotImplementedError

    def run_in_parts(self, columns, outputs, cancelled):
        self.requests.append(json.loads(columns["request"][0]))
        for place, chunk in enumerate(self.chunks):
            if place == self.fails_at:
                raise self.problem
            if place == self.waits_at:
                assert cancelled.wait(10)
                self.cancelled.set()
            text = chunk if type(chunk) is str else json.dumps({"text": "", **chunk})
            yield {
                "text": np.array([""], object), "chunk": np.array([text], object)
            }  # fmt: skip


class Embedder(Program):
    """The vector of a text is its length, its number of `a`, and 0.1."""

    name = "embedder"
    inputs = (Field("text", DType.BYTES),)
    outputs = (Field("vector", DType.FP32, (3,)), Field("tokens", DType.INT64))
    signature = Signature(inputs, outputs)

    def run(self, columns, outputs=None):
        vectors = [[len(text), text.count("a"), 0.1] for text in columns["text"]]
        tokens = [len(text.split()) for text in columns["text"]]
        return {"vector": np.array(vectors, np.float32), "tokens": np.array(tokens)}


@pytest.fixture
def writer():
    return Writer()


@pytest.fixture
def server(serve_models, writer, program, inline):
    return serve_models(
        ("late/2", writer, inline), ("late/1", Writer(), inline), ("early", writer, inline),
        ("numbers", program, inline), ("vectors", Embedder(), inline),
    )  # fmt: skip


def post(server, body, path=CHAT, headers=""):
    with server.client() as client:
        return client.request("POST", path, body, headers).answer()


def error_of(answer):
    return answer.status, answer.json["error"]["param"], answer.json["error"]["code"]


def stream(server, path=CHAT, **more):
    """The data of each event; the last is `done` where it says so."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("POST", path, json.dumps(HELLO | {"stream": True, **more}))
    *events, end = connection.getresponse().read().decode().split("\n\n")
    connection.close()
    assert end == ""
    return [json.loads(e[6:]) if e != "data: [DONE]" else "done" for e in events]


# -- what the model gets --


def test_the_model_gets_what_bears_on_the_answer_or_the_ledger_and_nothing_else(server, writer):
    more = {"temperature": 0.5, "stop": ["x"], "seed": 0, "top_p": None, "max_tokens": 9}
    body = HELLO | more | {"user": "ada", "n": 1, "store": True, "stream": False}

    assert post(server, body).status == 200
    assert writer.requests == [
        {
            "messages": HELLO["messages"], "temperature": 0.5, "stop": ["x"], "seed": 0,
            "max_tokens": 9, "user": "ada", "store": True,
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"n": 2}, "n"),
        ({"top_k": 5}, "top_k"),
        ({"functions": []}, "functions"),
        ({"messages": []}, "messages"),
        ({"messages": ["hello"]}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"model": "numbers"}, "model"),
        ({"model": 3}, "model"),
    ],
)
def test_a_field_that_cannot_be_obeyed_is_refused_by_its_name(server, writer, more, field):
    assert error_of(post(server, HELLO | more)) == (400, field, None)
    assert writer.requests == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize("field", ["temperature", "top_p", "presence_penalty", "logit_bias"])
def test_a_number_that_json_does_not_have_is_refused_and_not_left_out(server, writer, field, value):
    sent = f'{{"1": {value}}}' if field == "logit_bias" else value
    body = f'{json.dumps(HELLO)[:-1]}, "user": "NaN", "{field}": {sent}}}'
    refused = post(server, body.encode())
    told = "the number 1e400 is too large" if value == "1e400" else "has NaN or Infinity"
    assert refused.status == 400
    assert told in refused.json["error"]["message"]
    assert writer.requests == []
    assert post(server, HELLO | {"user": "NaN"}).status == 200


@pytest.mark.parametrize("depth", [100, 1_000, 1_020, 5_000])
def test_a_body_of_any_depth_is_given_to_the_model_or_refused(server, depth):
    nested = json.dumps(HELLO)[:-1] + ', "tools": ' + "[" * depth + "]" * depth + "}"
    allowed = {100: [200], 5_000: [400]}.get(depth, [200, 400])  # some Pythons read deeper bodies
    assert post(server, nested.encode()).status in allowed


@pytest.mark.parametrize("more", [{"best_of": 2}, {"echo": True}, {"prompt": [1, 2]}])
def test_of_texts_it_is_the_same(server, more):
    body = {"model": "late", "prompt": "say"} | more
    assert error_of(post(server, body, TEXT)) == (400, next(iter(more)), None)


def test_the_logprobs_of_a_text_have_the_form_of_the_older_api(server, writer):
    writer.chunks = [
        {"text": "a", "logprobs": [TOKEN | {"top_logprobs": [TOKEN | {"bytes": None}]}]},
        END,
    ]

    answer = post(server, {"model": "late", "prompt": ["say"], "logprobs": 1}, TEXT)

    (choice,) = answer.json["choices"]
    assert choice["text"] == "a"
    assert choice["logprobs"] == {
        "tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}]
    }  # fmt: skip


def test_a_long_conversation_is_read_beside_the_loop(server, writer):
    long = [{"role": "user", "content": "x: y, " * 50_000}]
    assert post(server, HELLO | {"messages": long}).status == 200
    assert writer.requests[0]["messages"] == long


# -- what clients read --


def test_a_whole_answer_is_collected_from_the_parts(server, writer):
    answer = post(server, HELLO, headers="Bascule-Id: mine\r\n")

    assert answer.json["id"] == answer.headers["bascule-id"] == "mine"
    assert answer.json["system_fingerprint"] == "late/2"
    assert answer.json["choices"] == [
        {
            "index": 0, "finish_reason": "stop", "logprobs": None,
            "message": {"role": "assistant", "content": "hello", "refusal": None},
        }
    ]  # fmt: skip
    assert answer.json["usage"] == {
        "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }  # fmt: skip
    server.until(lambda: server.totals()[1].endings.get("complete") == 1)
    assert server.counted() == {200: 1}


@pytest.mark.parametrize("asks_usage", [True, False])
def test_a_stream_begins_with_the_role_and_ends_with_the_usage_if_that_is_asked_for(
    server, asks_usage
):
    *chunks, done = stream(server, stream_options={"include_usage": asks_usage})

    assert done == "done"
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    assert deltas == [
        {"role": "assistant", "content": ""}, {"content": "hel"}, {"content": "lo"}, {}
    ]  # fmt: skip
    assert chunks[3]["choices"][0]["finish_reason"] == "stop"
    assert ("usage" in chunks[0]) is asks_usage
    assert len({c["id"] for c in chunks}) == 1
    if asks_usage:
        assert (chunks[-1]["choices"], chunks[-1]["usage"]["total_tokens"]) == ([], 5)


CALLS = [
    {"tool_calls": [{"index": 0, "id": "c0", "type": "function",
                     "function": {"name": "f", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "id": None, "function": {"name": None, "arguments": '{"a'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '":1}'}},
                    {"index": 1, "id": "c1", "function": {"name": "g", "arguments": "{}"}}]},
    {"finish": "tool_calls"},
]  # fmt: skip


@pytest.mark.parametrize("parallel", [True, False])
def test_pieces_of_calls_of_tools_are_put_together(server, writer, parallel):
    writer.chunks = CALLS

    answer = post(server, HELLO | {"parallel_tool_calls": parallel}).json["choices"][0]

    first = {"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    second = {"id": "c1", "type": "function", "function": {"name": "g", "arguments": "{}"}}
    assert answer["message"]["tool_calls"] == ([first, second] if parallel else [first])
    assert (answer["message"]["content"], answer["finish_reason"]) == (None, "tool_calls")


def test_a_failure_before_the_first_part_has_its_status(server, writer):
    writer.fails_at, writer.problem = 0, Overloaded("too many", retry_after_s=7)
    for streams in (True, False):
        answer = post(server, HELLO | {"stream": streams})
        assert error_of(answer) == (429, None, "rate_limit_exceeded")
        assert answer.headers["retry-after"] == "7"


def test_a_failure_later_is_an_event_of_a_stream_and_the_status_of_a_whole_answer(server, writer):
    writer.fails_at = 1
    *_, error = stream(server)
    whole = post(server, HELLO)

    assert error["error"]["type"] == whole.json["error"]["type"] == "server_error"
    assert whole.status == 500
    assert "secret" not in str(error) + whole.body.decode()
    assert server.counted() == {500: 2}


@pytest.mark.parametrize("chunk", ["no JSON", "[]", '{"text": 3}', '{"tool_calls": [3]}'])
def test_a_model_that_gives_no_chunks_has_failed(server, writer, chunk):
    writer.chunks = [chunk]
    assert post(server, HELLO).status == 500


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_goes_away_ends_the_model(server, writer, streams):
    writer.waits_at = 1
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("POST", CHAT, json.dumps(HELLO | {"stream": streams}))
    server.until(lambda: writer.requests)
    connection.close()
    assert writer.cancelled.wait(10)
    server.until(lambda: not any(model.open_calls for model in server.models))
    assert server.totals()[1].endings == {"cancelled": 1}


# -- names and rights --


def test_a_model_is_named_alone_with_a_version_or_with_an_alias(server):
    for model, own in zip(server.models, (("new",), ("old",), (), (), ()), strict=True):
        model.service = replace(model.service, labels=own)
    server.serve(*server.models)

    for name, version in (("late", 2), ("late/1", 1), ("late@old", 1), ("late@new", 2)):
        answer = post(server, HELLO | {"model": name})
        assert (answer.json["model"], answer.json["system_fingerprint"]) == (
            name, f"late/{version}"
        )  # fmt: skip
    for name in ("nowhere", "late/3", "late@other", "late/", "late@"):
        assert error_of(post(server, HELLO | {"model": name})) == (404, "model", "model_not_found")


@pytest.fixture
def key_for(server, tmp_path):
    """`key_for("infer:late")`: the header of a key, on a server that lets in nobody else."""
    from tests.keys import InMemory

    keys, file = InMemory(), tmp_path / "keys.json"

    def make(permission):
        permissions = [Permission.parse(permission)]
        _, token = create_key(
            keys, f"k{len(keys.kept)}", permissions, now=datetime.now(UTC), by="ada"
        )
        file.write_text(json.dumps([key.to_json() for key in keys.stored()]))
        guard = Authenticator(file)
        server.on_loop(lambda: setattr(server.site, "guard", guard))
        return f"Authorization: Bearer {token}\r\n"

    return make


def test_a_key_asks_the_models_that_it_may_ask(server, writer, key_for):
    header = key_for("infer:late")

    assert post(server, HELLO, headers=header).status == 200
    for body in (HELLO | {"model": "early"}, HELLO | {"model": "early", "n": 2}):
        refused = post(server, body, headers=header)
        assert (refused.status, refused.json["error"]["type"]) == (403, "permission_error")
    assert len(writer.requests) == 1
    other = post(server, HELLO, headers=key_for("read:late"))
    assert (other.status, other.json["error"]["type"]) == (403, "permission_error")


@pytest.mark.parametrize("size", [1, 300_000])
def test_without_a_key_nothing_is_read(server, key_for, size):
    key_for("infer:late")
    body = HELLO | {"messages": [{"role": "user", "content": "x" * size}]}
    assert error_of(post(server, body)) == (401, None, "invalid_api_key")


# -- embeddings --


def embed(server, **more):
    return post(server, {"model": "vectors", "input": ["banana", "two words"]} | more, EMBEDDINGS)


def test_embeddings_are_lists_of_floats_or_their_bytes(server):
    plain, coded = embed(server), embed(server, encoding_format="base64", dimensions=3)

    vectors = np.array([one["embedding"] for one in plain.json["data"]], np.float32)
    assert vectors.tolist() == np.array([[6, 3, 0.1], [9, 0, 0.1]], np.float32).tolist()
    for one, vector in zip(coded.json["data"], vectors, strict=True):
        assert base64.b64decode(one["embedding"]) == vector.astype("<f4").tobytes()
    assert plain.json["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert [one["index"] for one in plain.json["data"]] == [0, 1]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"input": [1, 2]}, "input"), ({"input": [[1, 2]]}, "input"), ({"input": []}, "input"),
        ({"dimensions": 2}, "dimensions"), ({"encoding_format": "int8"}, "encoding_format"),
        ({"model": "late"}, "model"), ({"truncate": "END"}, "truncate"),
    ],
)  # fmt: skip
def test_embeddings_that_cannot_be_made_are_refused_by_the_field(server, more, field):
    assert error_of(embed(server, **more)) == (400, field, None)


def test_a_classifier_of_texts_embeds_nothing(serve_models, inline):
    class Classifier(Embedder):
        outputs = (Field("label", DType.INT64), Field("probabilities", DType.FP64, (3,)))
        signature = Signature(Embedder.inputs, outputs)

    server = serve_models(("late", Classifier(), inline))
    answer = embed(server)
    assert answer.status == 404
    assert "no model here embeds texts" in answer.json["error"]["message"]


# -- the list of models, and one body for two protocols --


@pytest.mark.parametrize("path", ["/v1/models", "/openai/v1/models"])
def test_the_models_that_can_be_asked_are_listed(server, path):
    with server.client() as client:
        listed = client.request("GET", path).answer().json
        (card,) = (one for one in listed["data"] if one["id"] == "late")
        one = client.request("GET", path + "/late").answer().json
    assert [model["id"] for model in listed["data"]] == ["late", "early", "vectors"]
    assert card.items() <= one.items()


def test_the_paths_of_kserve_answer_the_same(server):
    for path, body in ((CHAT, HELLO), (EMBEDDINGS, {"model": "vectors", "input": "a"})):
        plain, below = (post(server, body, prefix + path).json for prefix in ("", "/openai"))
        for key in {*plain} - {"id", "created"}:
            assert plain[key] == below[key]


def test_the_example_of_each_route_is_answered(server):
    with server.client() as client:
        paths = client.request("GET", "/v2/openapi.json").answer().json["paths"]
        for path in (CHAT, TEXT, EMBEDDINGS, "/openai" + CHAT):
            operation = paths[path]["post"]
            example = operation["requestBody"]["content"]["application/json"]["example"]
            assert client.request("POST", path, example).answer().status == 200


# -- other ways to the same model --


def test_the_open_inference_protocol_streams_the_same_parts(server):
    text = json.dumps({"messages": HELLO["messages"]})
    tensor = {"name": "request", "datatype": "BYTES", "shape": [1], "data": [text]}
    with Events(server.port, "/v2/models/late/infer_stream", {"inputs": [tensor]}) as events:
        *parts, (name, _) = [*events]
    chunks = [json.loads(part["outputs"][1]["data"][0]) for _, part in parts]
    assert "".join(chunk["text"] for chunk in chunks) == "hello"
    assert name == "end"
