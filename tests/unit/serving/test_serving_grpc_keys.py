"""Keys over gRPC: who is let in, for how long, and that no method is without a rule."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections import Counter
from datetime import UTC, datetime
from typing import get_args

import grpc
import pytest
from tests.keys import InMemory

from bascule.core.errors import Unauthenticated
from bascule.security.keys import OPEN_ACTIONS, Action, KnownKeys, Permission, create_key
from bascule.serving.transports.authenticator import Authenticator
from bascule.serving.transports.rpc import InParts, Unary, Watch

WAIT_S = 10
RIGHTS = [action for action in get_args(Action) if action not in OPEN_ACTIONS]
REFUSALS = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
LIST_SERVICES = b"\x3a\x00"


@pytest.fixture
def guarded(serve_models, program, inline, tmp_path):
    """Two models behind keys; `guarded.make(permission)` is the metadata that shows a new key."""
    running = serve_models(
        ("late", program, inline), ("early", program, inline), outcomes_home=tmp_path / "home"
    )
    file, keys = tmp_path / "keys.json", InMemory()

    def write():
        draft = file.with_suffix(".new")
        draft.write_text(json.dumps([key.to_json() for key in keys.stored()]))
        os.replace(draft, file)

    def make(*permissions):
        _, token = create_key(
            keys, f"k{len(keys.kept)}", [Permission.parse(p) for p in permissions],
            now=datetime.now(UTC), by="ada",
        )  # fmt: skip
        write()
        running.on_loop(guard.look)
        return [("authorization", f"Bearer {token}")]

    def revoke_all():
        keys.kept.clear()
        write()
        running.on_loop(guard.look)

    write()
    guard = Authenticator(file)

    def set_guard():
        running.grpc.guard = guard

    running.on_loop(set_guard)
    running.make, running.revoke_all, running.guard = make, revoke_all, guard
    return running


@pytest.fixture
def client(guarded, grpc_client):
    return grpc_client(guarded)


def code(client, method, data=b"", metadata=None):
    """The code with which a call of one message and one answer ends."""
    try:
        client.call(method, data, metadata=metadata)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def code_of_stream(client, path, message, metadata=None):
    calls = client.channel.stream_stream(path)(iter([message]), metadata=metadata, timeout=WAIT_S)
    try:
        next(calls)
    except grpc.RpcError as error:
        return error.code().name
    calls.cancel()
    return "OK"


def infer(messages, model, *values, name="x"):
    made = messages("ModelInferRequest")(model_name=model)
    tensor = made.inputs.add(name=name, datatype="FP64", shape=[1, 2])
    tensor.contents.fp64_contents.extend(values or (1, 2))
    return made.SerializeToString()


def outcome(messages, model):
    made = messages("bascule.v1.AddRequest")(model_name=model)
    made.outcomes.add(id="a", number=1)
    return made.SerializeToString()


def raw(model, name="x"):
    from bascule.serving.codecs.protobuf import block

    head = block(1, name) + block(2, "FP64") + block(3, b"\1\2")
    return block(1, model) + block(5, head) + block(7, bytes(16))


# -- every method --


def test_every_method_opens_by_its_own_right_and_by_no_other(guarded, client, messages):
    """The matrix is made of the methods themselves, so a new one cannot be forgotten."""
    shown = {
        (action, model): guarded.make(f"{action}:{model}")
        for action in RIGHTS
        for model in ("late", "early", "*")
    }
    about = {
        "ModelMetadata": messages("ModelMetadataRequest")(name="late").SerializeToString(),
        "ModelReady": messages("ModelReadyRequest")(name="late").SerializeToString(),
        "ModelConfig": messages("ModelConfigRequest")(name="late").SerializeToString(),
        "ModelInfer": infer(messages, "late"),
        "ModelStreamInfer": infer(messages, "late"),
        "Add": outcome(messages, "late"),
    }
    of_model = {
        "ModelMetadata": "late", "ModelConfig": "late", "ModelInfer": "late",
        "ModelStreamInfer": "late", "ModelStatistics": "*", "RepositoryIndex": "*", "Add": "late",
    }  # fmt: skip
    methods = guarded.grpc.methods
    assert {type(method) for method in methods.values()} == {Unary, Watch, InParts}
    tally = Counter()
    for path, method in methods.items():
        name = path.decode().rpartition("/")[2]
        message = about.get(name, LIST_SERVICES if name == "ServerReflectionInfo" else b"")
        ask = code if type(method) is Unary else code_of_stream

        without = ask(client, path.decode(), message)
        assert (without == "UNAUTHENTICATED") == (method.action not in OPEN_ACTIONS), path
        tally[without] += 1
        for (action, model), metadata in shown.items():
            found = ask(client, path.decode(), message, metadata)
            tally[found] += 1
            permission = Permission(action, model)
            may = method.action in OPEN_ACTIONS or permission.covers(
                method.action, of_model.get(name, "")
            )
            assert found == ("OK" if may else "PERMISSION_DENIED"), (path, action, model)
    assert tally["UNAUTHENTICATED"] > 5
    # Refused calls are counted, each once, under no model: as over HTTP.
    refused = guarded.totals()[0].by_status
    assert refused[401] == tally["UNAUTHENTICATED"]
    assert refused[403] == tally["PERMISSION_DENIED"]
    for total in guarded.totals()[1:]:
        assert not {401, 403} & set(total.by_status)


def test_without_a_key_no_method_and_no_model_is_told_from_another(guarded, client, messages):
    asked = [
        ("/inference.GRPCInferenceService/NoSuchMethod", b""),
        ("/no.such.ModelSpec/Method", b""),
        ("ModelInfer", b"no message"),
        ("ModelInfer", infer(messages, "late")),
        ("ModelInfer", infer(messages, "nobody")),
        ("ModelInfer", infer(messages, "late", name="y")),
        ("ModelMetadata", messages("ModelMetadataRequest")(name="late").SerializeToString()),
        ("ModelMetadata", messages("ModelMetadataRequest")(name="nobody").SerializeToString()),
    ]
    assert len({client.refusal(method, data) for method, data in asked}) == 1
    assert code(client, *asked[0]) == "UNAUTHENTICATED"
    assert code(client, *asked[0], metadata=guarded.make("metrics")) == "UNIMPLEMENTED"


def test_every_method_says_what_it_does(guarded):
    for path, method in guarded.grpc.methods.items():
        assert method.action in get_args(Action), path


# -- what a caller learns and costs --


def test_a_refused_call_never_reaches_the_model(client, program, messages, guarded):
    for metadata in (None, guarded.make("infer:early"), guarded.make("read:*")):
        assert code(client, "ModelInfer", infer(messages, "late"), metadata) in REFUSALS
    assert program.runs == []


def test_a_call_that_has_to_wait_is_asked_for_its_key_before_it_is_counted_under_its_model(
    guarded, client, messages
):
    """As over HTTP: what is done to a model with a key of another is not in its counters."""
    guarded.on_loop(lambda: setattr(guarded.grpc.backlog, "is_behind", lambda now_ns: True))
    for allowed, expected in (("early", "PERMISSION_DENIED"), ("late", "OK")):
        metadata = guarded.make(f"infer:{allowed}")
        assert code(client, "ModelInfer", infer(messages, "late"), metadata) == expected
    others, late, _ = guarded.totals()
    assert (others.by_status, late.by_status) == ({403: 1}, {200: 1})


@pytest.mark.parametrize("make", [raw, lambda model, name: b"\x0a\x04late\x2a\x01\xff"])
def test_a_key_of_another_model_does_not_learn_what_a_model_takes(guarded, client, make):
    """What is wrong with a request tells the names and types of a model's inputs."""
    metadata = guarded.make("infer:early")
    if make is raw:
        told = client.refusal("ModelInfer", raw("late", "nope"), metadata=metadata)
        assert told[0] == "PERMISSION_DENIED"
        assert "it has x" not in told[1]
    else:
        # What cannot be read names no model: that it cannot be read is all there is to say.
        assert code(client, "ModelInfer", make("late", ""), metadata) == "INVALID_ARGUMENT"


def test_a_message_that_was_read_before_is_not_read_for_others(guarded, client, program):
    """The quick way for messages that come again asks for the key as well."""
    may, may_not = guarded.make("infer:late"), guarded.make("infer:early")
    for metadata, expected in (
        (may, "OK"), (may, "OK"), (may_not, "PERMISSION_DENIED"), (None, "UNAUTHENTICATED"),
        (may, "OK"),
    ):  # fmt: skip
        assert code(client, "ModelInfer", raw("late"), metadata) == expected
    assert len(program.runs) == 3


def test_two_keys_are_no_key(guarded, client):
    good = guarded.make("infer:late")
    for metadata in (good + good, [*good, ("authorization", "x")], [("authorization", "x"), *good]):
        assert code(client, "ModelInfer", raw("late"), metadata) == "UNAUTHENTICATED"
    assert code(client, "ModelInfer", raw("late"), good) == "OK"


def test_what_there_is_is_told_to_those_who_have_a_key(guarded, client, messages):
    message = messages("ModelMetadataRequest")(name="nobody").SerializeToString()
    assert code(client, "ModelMetadata", message) == "UNAUTHENTICATED"
    assert code(client, "ModelMetadata", message, guarded.make("read:late")) == "NOT_FOUND"


# -- keys that end --


def test_a_key_that_ends_opens_nothing_more_on_a_connection_that_is_open(guarded, client):
    """Neither header blocks nor messages that are known by heart."""
    metadata = guarded.make("infer:late")
    for _ in range(5):
        assert code(client, "ModelInfer", raw("late"), metadata) == "OK"
    guarded.revoke_all()
    for _ in range(3):
        assert code(client, "ModelInfer", raw("late"), metadata) == "UNAUTHENTICATED"


def test_a_stream_is_answered_only_as_long_as_its_key_lives(guarded, client):
    metadata = guarded.make("read:late")
    asked = queue.SimpleQueue()
    stream = client.channel.stream_stream(REFLECTION)(
        iter(asked.get, None), metadata=metadata, timeout=WAIT_S
    )
    for _ in range(2):
        asked.put(LIST_SERVICES)
        assert b"inference.GRPCInferenceService" in next(stream)
    guarded.revoke_all()
    asked.put(LIST_SERVICES)
    with pytest.raises(grpc.RpcError) as refused:
        next(stream)
    assert refused.value.code().name == "UNAUTHENTICATED"
    asked.put(None)
    assert guarded.totals()[0].by_status == {401: 1}


@pytest.mark.parametrize("ends", [False, True])
def test_a_request_that_was_begun_is_not_finished_with_a_key_that_ends(guarded, client, ends):
    """The key was good when the headers came; the message comes later."""
    metadata = guarded.make("read:late")
    may_go_on = threading.Event()

    def message():
        may_go_on.wait(WAIT_S)
        yield b""

    call = client.channel.stream_unary("/inference.GRPCInferenceService/ServerMetadata").future(
        message(), metadata=metadata, timeout=WAIT_S
    )
    guarded.until(lambda: any(c.flow.streams for c in guarded.grpc.connections))
    if ends:
        guarded.revoke_all()
    may_go_on.set()
    problem = call.exception(WAIT_S)
    assert (problem.code().name if problem else "OK") == ("UNAUTHENTICATED" if ends else "OK")


def test_health_is_watched_without_a_key_and_outlives_one(guarded, client):
    metadata = guarded.make("read:late")
    watch = client.channel.unary_stream("/grpc.health.v1.Health/Watch")
    calls = [watch(b"", metadata=shown, timeout=WAIT_S) for shown in (None, metadata)]
    assert [next(call) for call in calls] == [b"\x08\x01"] * 2
    guarded.revoke_all()

    def leave():
        guarded.site.draining = True

    guarded.on_loop(leave)
    guarded.after(1)
    assert [next(call) for call in calls] == [b"\x08\x02"] * 2
    for call in calls:
        call.cancel()


def test_a_watch_of_what_needs_a_key_ends_with_it(guarded, client):
    """Health needs none; the rule is that of the method."""
    from dataclasses import replace

    path = b"/grpc.health.v1.Health/Watch"
    guarded.grpc.methods[path] = replace(guarded.grpc.methods[path], action="read")
    watch = client.channel.unary_stream(path.decode())
    call = watch(b"", metadata=guarded.make("read:late"), timeout=WAIT_S)
    assert next(call) == b"\x08\x01"
    guarded.revoke_all()
    guarded.after(1)
    with pytest.raises(grpc.RpcError) as refused:
        next(call)
    assert refused.value.code().name == "UNAUTHENTICATED"
    assert guarded.totals()[0].by_status == {401: 1}


# -- what is remembered --


def test_a_header_that_is_longer_than_a_key_is_none(guarded):
    """Callers are remembered by the whole header, so nobody may make it as long as they like."""
    ((_, shown),) = guarded.make("infer:late")
    ring = KnownKeys(guarded.guard._ring._by_hash.values())
    now = datetime.now(UTC)
    assert ring.identify(shown.ljust(256), now=now)
    with pytest.raises(Unauthenticated, match="is no key"):
        ring.identify(shown.ljust(257), now=now)


def test_long_header_blocks_are_not_remembered(guarded, client):
    """A client could have a megabyte of them on every connection."""
    for number in range(20):
        more = [("x-filler", f"{number}" + "f" * 6_000)]
        assert code(client, "ServerLive", metadata=more) == "OK"
    (connection,) = guarded.grpc.connections
    assert all(len(block) <= 1_024 for block in guarded.on_loop(lambda: [*connection.known_heads]))
