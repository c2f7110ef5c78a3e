"""OpenAI's API as it is used: `bascule serve`, models of text, and clients of others, unchanged.

The clients are in an environment of their own, `openai_clients`.
"""

from __future__ import annotations

import http.client
import json
import queue
import socket
import subprocess
import textwrap
import time

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tests.events import Events
from tests.generators import pack_embedder, pack_talker
from tests.own_environments import python_of
from tests.waiting import until

from bascule.app import open_keys
from bascule.security import Permission
from bascule.settings import load_settings

CHAT = "/v1/chat/completions"


def chat(text, **more):
    return {"model": "talker", "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """Where the talker writes when an answer has ended."""
    return tmp_path_factory.mktemp("talker") / "closed"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, closed):
    folder = tmp_path_factory.mktemp("bundles")
    return pack_talker(folder, closed), pack_embedder(folder)


@pytest.fixture(scope="module")
def server(start, bundles, tmp_path_factory):
    env = {"BASCULE_HOME": str(tmp_path_factory.mktemp("home"))}
    running = start(*bundles, "--grpc-port=0", env=env)
    yield running
    running.process.stdout.close()
    running.end()


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_frees_the_model_within_200_ms(server, closed, streams):
    waits_s = []
    for _ in range(5):
        closed.unlink(missing_ok=True)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("POST", CHAT, json.dumps(chat("count 2000", stream=streams)))
        if streams:
            answer = connection.getresponse()
            assert answer.readline().startswith(b"data: ")
        else:
            time.sleep(0.1)  # the model, which takes 10 s, is in the middle of it
        left_s = time.time()
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        until(closed.exists)
        until(lambda: closed.read_text())
        waits_s.append(float(closed.read_text()) - left_s)
    assert sorted(waits_s)[2] < 0.2, waits_s


@pytest.mark.slow
@pytest.mark.serial
def test_a_client_that_does_not_read_keeps_memory_bounded(server):
    (worker,) = map(psutil.Process, server.worker_pids())
    before = worker.memory_info().rss
    body = chat("long 2000", stream=True)
    with Events(server.port, CHAT, body, receive_buffer_bytes=4096) as events:
        next(events)
        until(lambda: worker.cpu_percent(0.3) < 5)  # it has stopped
        assert worker.memory_info().rss - before < 24 << 20


def test_model_stream_infer_streams_the_parts_of_a_model_that_generates(server):
    answers = queue.Queue()
    client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    client.start_stream(lambda result, error: answers.put((result, error)))
    tensor = triton.InferInput("request", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b'{"prompt": "one two"}'], object))
    client.async_stream_infer("talker", [tensor], enable_empty_final_response=True)
    texts = []
    while True:
        result, error = answers.get(timeout=10)
        assert error is None
        if result.get_response().parameters["triton_final_response"].bool_param:
            break
        texts.append(result.as_numpy("text")[0].decode())
        chunk = json.loads(result.as_numpy("chunk")[0])
    client.stop_stream()
    client.close()
    assert texts == ["one ", "two ", ""]
    assert (chunk["finish"], chunk["usage"]["completion_tokens"]) == ("stop", 2)


def run(script, *arguments):
    """What a script prints last, as JSON, run by the Python of the clients."""
    done = subprocess.run(
        [python_of("openai_clients"), "-W", "ignore", "-c", textwrap.dedent(script), *arguments],
        capture_output=True, text=True, timeout=120, check=False,
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


OPENAI = """
    import json, sys
    import openai
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    class Weather(BaseModel):
        city: str

    client = openai.OpenAI(base_url=sys.argv[1], api_key="x", max_retries=0)
    asked = dict(model="talker", messages=[{"role": "user", "content": "one two"}])
    weather = openai.pydantic_function_tool(Weather)
    create, parse = client.chat.completions.create, client.chat.completions.parse
    said = {"models": [model.id for model in client.models.list()]}
    said["model"] = client.models.retrieve("talker").id
    said["chat"] = create(**asked).choices[0].message.content
    *_, last = create(**asked, stream=True, stream_options={"include_usage": True})
    said["usage"] = last.usage.total_tokens
    with client.chat.completions.stream(**asked) as stream:
        said["streamed"] = stream.until_done().get_final_completion().choices[0].message.content
    with client.chat.completions.stream(**asked, tools=[weather]) as stream:
        call = stream.until_done().get_final_completion().choices[0].message.tool_calls[0]
        said["tool streamed"] = call.function.parsed_arguments.city
    call = parse(**asked, tools=[weather]).choices[0].message.tool_calls[0]
    said["tool"] = call.function.parsed_arguments.city
    said["parsed"] = parse(**asked, response_format=Person).choices[0].message.parsed.age
    logprobs = create(**asked, logprobs=True, top_logprobs=1).choices[0].logprobs
    said["logprobs"] = [token.logprob for token in logprobs.content]
    text = client.completions.create(model="talker", prompt="one two three", max_tokens=2)
    said["text"] = [text.choices[0].text, text.choices[0].finish_reason]
    parts = client.completions.create(model="talker", prompt="one two", stream=True)
    said["text streamed"] = "".join(part.choices[0].text for part in parts)
    for coding in ("float", None):
        more = {"encoding_format": coding} if coding else {}  # base64 by default
        (one,) = client.embeddings.create(model="embedder", input="banana", **more).data
        said[f"embedding {coding}"] = [round(value, 3) for value in one.embedding]

    def kind_of(**more):
        try:
            answer = create(**{**asked, **more})
            [*answer] if more.get("stream") else answer
        except openai.APIError as error:
            return type(error).__name__

    fails = [{"role": "user", "content": "fail 1"}]
    said["errors"] = [
        kind_of(model="nowhere"), kind_of(n=2), kind_of(temperature=3), kind_of(messages=fails),
        kind_of(messages=fails, stream=True),
    ]

    async def main():
        client = openai.AsyncOpenAI(base_url=sys.argv[1], api_key="x")
        said["async"] = (await client.chat.completions.create(**asked)).choices[0].message.content
        said["async streamed"] = ""
        async for part in await client.chat.completions.create(**asked, stream=True):
            said["async streamed"] += part.choices[0].delta.content or ""

    import asyncio
    asyncio.run(main())
    print(json.dumps(said))
"""


@pytest.mark.slow  # the first time, to build the environment takes minutes
@pytest.mark.parametrize("prefix", ["", "/openai"])
def test_the_client_of_openai(server, prefix):
    said = run(OPENAI, f"http://127.0.0.1:{server.port}{prefix}/v1")

    assert said.pop("errors") == [
        "NotFoundError", "BadRequestError", "BadRequestError", "InternalServerError", "APIError"
    ]  # fmt: skip
    assert said == {
        "models": ["talker", "embedder"], "model": "talker", "chat": "one two ", "usage": 4,
        "streamed": "one two ", "tool streamed": "Ulm", "tool": "Ulm", "parsed": 36,
        "logprobs": [-0.5, -0.5], "text": ["one two ", "length"], "text streamed": "one two ",
        "embedding float": [6.0, 3.0, 0.1], "embedding None": [6.0, 3.0, 0.1],
        "async": "one two ", "async streamed": "one two ",
    }  # fmt: skip


LANGCHAIN = """
    import json, sys
    from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    class Weather(BaseModel):
        "The weather of a city."
        city: str

    place = dict(base_url=sys.argv[1], api_key="x")
    model = ChatOpenAI(model="talker", **place)
    vectors = OpenAIEmbeddings(model="embedder", check_embedding_ctx_length=False, **place)
    called = model.with_structured_output(Weather, method="function_calling").invoke("one two")
    print(json.dumps([
        model.invoke("one two").content,
        "".join(part.content for part in model.stream("one two")),
        model.with_structured_output(Person, method="json_schema").invoke("one two").age,
        model.with_structured_output(Person, method="json_mode").invoke("one two").age,
        called.city,
        model.bind_tools([Weather]).invoke("one two").tool_calls[0]["args"],
        vectors.embed_documents(["banana", "b"])[1][:2],
        OpenAI(model="talker", **place).invoke("one two"),
    ]))
"""
LITELLM = """
    import json, sys
    import litellm

    place = dict(api_base=sys.argv[1], api_key="x")
    asked = dict(model="openai/talker", messages=[{"role": "user", "content": "one two"}], **place)
    parts = litellm.completion(**asked, stream=True)
    vector = litellm.embedding(model="openai/embedder", input=["banana"], **place)
    try:
        litellm.completion(**{**asked, "model": "openai/nowhere"})
    except litellm.NotFoundError as error:
        missing = "nowhere" in str(error)
    print(json.dumps([
        litellm.completion(**asked).choices[0].message.content,
        "".join(part.choices[0].delta.content or "" for part in parts),
        vector.data[0]["embedding"][:2], missing,
    ]))
"""


@pytest.mark.slow
def test_langchain_and_litellm(server):
    url = f"http://127.0.0.1:{server.port}/v1"
    assert run(LANGCHAIN, url) == [
        "one two ", "one two ", 36, 36, "Ulm", {"city": "Ulm"}, [1.0, 0.0], "one two "
    ]  # fmt: skip
    assert run(LITELLM, url) == ["one two ", "one two ", [6.0, 3.0], True]


KEYS = """
    import json, sys, threading, time
    import openai

    def kind_of(key, model="talker", **more):
        client = openai.OpenAI(base_url=sys.argv[1], api_key=key, max_retries=0)
        try:
            asked = [{"role": "user", "content": "one"}]
            client.chat.completions.create(model=model, messages=asked, **more)
        except openai.APIStatusError as error:
            return type(error).__name__, error.response.headers.get("retry-after", "")
        return "", ""

    print(json.dumps([
        kind_of("wrong"), kind_of(sys.argv[2], "embedder"), kind_of(sys.argv[2]),
        kind_of(sys.argv[2]), kind_of(sys.argv[2]),
    ]))
"""


@pytest.mark.slow
def test_a_key_and_the_limits_of_its_model_hold(serve, bundles, tmp_path):
    env = {
        "BASCULE_HOME": str(tmp_path), "BASCULE_SECURITY__CALLERS": "keys",
        "BASCULE_POLICIES": json.dumps({"talker": {"rate": "2/min"}}),
    }  # fmt: skip
    server = serve(*bundles, env=env)
    keys = open_keys(load_settings(tmp_path, env))
    _, token = keys.create("ada", [Permission("infer", "talker")], by="root")
    headers = {"Authorization": f"Bearer {token}"}

    def is_let_in():
        with Events(server.port, "/v1/embeddings", {"model": "embedder"}, headers) as events:
            return events.status == 403

    until(is_let_in)
    unknown, refused, *answered, limited = run(KEYS, f"http://127.0.0.1:{server.port}/v1", token)

    assert (unknown[0], refused[0]) == ("AuthenticationError", "PermissionDeniedError")
    assert answered == [["", ""], ["", ""]]
    assert limited[0] == "RateLimitError"
    assert 1 <= int(limited[1]) <= 60
