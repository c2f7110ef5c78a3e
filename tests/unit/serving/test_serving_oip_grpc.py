"""The Open Inference Protocol over gRPC: real channels of grpcio against the inside of a worker."""

from __future__ import annotations

import re

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.tiers import examples

from bascule.core.errors import KINDS, BasculeError, ModelFailed
from bascule.core.fields import DType, Field
from bascule.serving.codecs.raw_tensors import raw_of, raw_reader
from bascule.serving.protocols.oip_messages import read_first_name_and_version
from bascule.serving.transports.frames import ENCODINGS, beginning_of, compressed, enclosed
from bascule.serving.transports.statuses import CODE_OF, INTERNAL, STATUS_OF, HttpError, code_of


@pytest.fixture
def served(serve_models, program, inline):
    return serve_models(("fake", program, inline))


@pytest.fixture
def client(served, grpc_client):
    return grpc_client(served)


def values(answer, name):
    for index, output in enumerate(answer.outputs):
        if output.name == name:
            if answer.raw_output_contents:
                return np.frombuffer(answer.raw_output_contents[index]).reshape(output.shape)
            return np.array(output.contents.fp64_contents).reshape(output.shape)
    raise AssertionError(f"no output {name}")


# -- what is told --


def test_the_server_and_its_models_are_told(client, messages):
    assert client.told("ServerLive").live
    assert client.told("ServerReady").ready
    assert client.told("ServerMetadata").name == "bascule"
    metadata = client.told(
        "ModelMetadata", messages("ModelMetadataRequest")(name="fake").SerializeToString()
    )
    assert (metadata.name, list(metadata.versions)) == ("fake", ["1"])
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("x", "FP64", [-1, 2])
    ]
    assert [(t.name, list(t.shape)) for t in metadata.outputs] == [
        ("twice", [-1, 2]),
        ("sum", [-1]),
    ]
    index = client.told("RepositoryIndex")
    assert [(m.name, m.version, m.state) for m in index.models] == [("fake", "1", "READY")]


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("fake", "", True), ("fake", "1", True), ("fake", "2", False), ("no", "", False)],
)
def test_a_model_is_ready_or_it_is_not(client, messages, name, version, ready):
    request = messages("ModelReadyRequest")(name=name, version=version)
    assert client.told("ModelReady", request.SerializeToString()).ready is ready


def test_what_is_not_served_is_not_found(client, messages, ask_grpc):
    request = messages("ModelMetadataRequest")(name="no").SerializeToString()
    assert client.refusal("ModelMetadata", request)[0] == "NOT_FOUND"
    request = ask_grpc([1, 2])
    request.model_version = "7"
    code, words = client.refusal("ModelInfer", request.SerializeToString())
    assert (code, "no version '7' of 'fake'" in words) == ("NOT_FOUND", True)


def test_a_method_that_is_not_there_is_unimplemented(client, served):
    code, words = client.refusal("RepositoryModelLoad")
    assert (code, "no method /inference.GRPCInferenceService/RepositoryModelLoad" in words) == (
        "UNIMPLEMENTED", True,
    )  # fmt: skip
    assert served.totals()[0].by_status == {404: 1}


# -- inference --


@pytest.mark.parametrize("raw", [True, False])
def test_an_answer_has_its_numbers_where_the_request_had_them(client, ask_grpc, raw):
    answer = client.infer(ask_grpc([1, 2], [3, 4], raw=raw, id="mine"))
    assert (answer.model_name, answer.model_version, answer.id) == ("fake", "1", "mine")
    assert bool(answer.raw_output_contents) is raw
    np.testing.assert_array_equal(values(answer, "twice"), [[2, 4], [6, 8]])
    np.testing.assert_array_equal(values(answer, "sum"), [3, 7])


def test_only_the_outputs_asked_for_are_answered_in_that_order(client, ask_grpc):
    request = ask_grpc([1, 2])
    for name in ("sum", "twice", "sum"):
        request.outputs.add(name=name)
    assert [output.name for output in client.infer(request).outputs] == ["sum", "twice"]
    request = ask_grpc([1, 2])
    request.outputs.add(name="sum")
    assert [output.name for output in client.infer(request).outputs] == ["sum"]


def test_calls_that_differ_in_id_and_values_alone_are_not_mixed_up(client, ask_grpc):
    """They are read by what the first of them said."""
    made = set()
    for number in range(20):
        request = ask_grpc([number, 1], id="" if number % 3 == 0 else f"id-{number:03}")
        answer = client.infer(request)
        np.testing.assert_array_equal(values(answer, "twice"), [[2 * number, 2]])
        if number % 3:
            assert answer.id == f"id-{number:03}"
        else:
            made.add(answer.id)
    assert len(made) == 7


def test_the_next_call_is_read_by_itself_where_it_says_something_else(client, ask_grpc):
    first = ask_grpc([1, 2], id="a")
    client.infer(first)
    other = ask_grpc([1, 2], id="a")
    other.inputs[0].name = "y"
    assert client.refusal("ModelInfer", other.SerializeToString())[0] == "INVALID_ARGUMENT"
    transposed = ask_grpc([1, 2], id="a")
    transposed.inputs[0].shape[:] = [2, 1]
    assert client.refusal("ModelInfer", transposed.SerializeToString())[0] == "INVALID_ARGUMENT"


def test_an_id_that_is_no_text_is_refused_also_where_the_rest_is_known(client, ask_grpc):
    data = ask_grpc([1, 2], id="mine").SerializeToString()
    client.call("ModelInfer", data)
    client.call("ModelInfer", data)
    code, words = client.refusal("ModelInfer", data.replace(b"mine", b"mi\xffe"))
    assert (code, "not UTF-8" in words) == ("INVALID_ARGUMENT", True)


def test_the_models_of_one_server_are_told_apart(serve_models, fake, inline, grpc_client, ask_grpc):
    one, two = fake(), fake()
    running = serve_models(("fake/2", one, inline), ("fake/1", two, inline))
    client = grpc_client(running)
    for version, told in (("", "2"), ("1", "1"), ("2", "2"), ("1", "1")):
        assert client.infer(ask_grpc([1, 2], model_version=version)).model_version == told
    assert (len(one.runs), len(two.runs)) == (2, 2)
    assert [total.by_status for total in running.totals()] == [{}, {200: 2}, {200: 2}]


def test_whoever_waits_is_run_together_with_others(
    serve_models, program, thread, grpc_client, ask_grpc
):
    running = serve_models(("fake", program, thread))
    client = grpc_client(running)
    program.gate.clear()
    calls = [
        client.method("ModelInfer").future(ask_grpc([number, 1]).SerializeToString())
        for number in range(9)
    ]
    (model,) = running.models
    running.until(lambda: model.engine.batcher.open_calls == 9)
    program.gate.set()
    for number, call in enumerate(calls):
        answer = client._messages("ModelInferResponse").FromString(call.result(10))
        np.testing.assert_array_equal(values(answer, "twice"), [[2 * number, 2]])
    assert program.runs[1:] == [8] or sum(program.runs) == 9
    assert len(program.runs) <= 3


# -- what is refused --


def spoilt(request, how):
    match how:
        case "no name":
            request.inputs[0].name = "nope"
        case "twice":
            request.inputs.append(request.inputs[0])
            request.raw_input_contents.append(request.raw_input_contents[0])
        case "no input":
            del request.inputs[:]
            del request.raw_input_contents[:]
        case "raw and typed":
            request.inputs[0].contents.fp64_contents.append(1)
        case "more raw":
            request.raw_input_contents.append(b"")
        case "short":
            request.raw_input_contents[0] = request.raw_input_contents[0][:-1]
        case "shape":
            request.inputs[0].shape[:] = [1, 3]
        case "no rows":
            request.inputs[0].shape[:] = [0, 2]
        case "negative":
            request.inputs[0].shape[:] = [-1, 2]
        case "datatype":
            request.inputs[0].datatype = "BYTES"
        case "no datatype":
            request.inputs[0].datatype = "FP128"
        case "nan":
            request.raw_input_contents[0] = np.array([np.nan, 1]).tobytes()
        case "infinite":
            request.raw_input_contents[0] = np.array([1, -np.inf]).tobytes()
        case "output":
            request.outputs.add(name="nope")
        case "confidence":
            request.parameters["confidence"].double_param = 0.9
    return request


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no name", "inputs[0].name: the model has no input 'nope'; it has x"),
        ("twice", "inputs[1]: 'x' is given twice"),
        ("no input", "inputs: 'x' missing"),
        ("raw and typed", "inputs[0] (x).contents: the values come raw as well"),
        ("more raw", "raw_input_contents: 2 values, where there are 1 inputs"),
        ("short", "raw_input_contents[0] (x): 15 bytes, where the shape makes 16"),
        ("shape", "inputs[0] (x).shape: [1, 3] is not [rows, 2]"),
        ("no rows", "inputs[0] (x).shape: [0, 2] is not [rows, 2]"),
        ("negative", "inputs[0] (x).shape: [-1, 2] is not [rows, 2]"),
        ("datatype", "inputs[0] (x).datatype: BYTES, where the model takes FP64"),
        ("no datatype", "inputs[0] (x).datatype: 'FP128' is no data type"),
        ("nan", "raw_input_contents[0] (x)[0] is null or NaN"),
        ("infinite", "raw_input_contents[0] (x)[1] is infinite, where the model takes numbers"),
        ("output", "outputs[0].name: the model has no output 'nope'"),
        ("confidence", "parameters.confidence: the model has no calibration"),
    ],
)
@pytest.mark.parametrize("before", [False, True])
def test_a_wrong_request_is_one_sentence_that_names_the_place(
    client, served, ask_grpc, how, said, before
):
    if before:
        client.infer(ask_grpc([1, 2]))
    request = spoilt(ask_grpc([1, 2]), how)
    code, words = client.refusal("ModelInfer", request.SerializeToString())
    assert code == "INVALID_ARGUMENT"
    assert said in words
    assert served.counted() == {400: 1, **({200: 1} if before else {})}


def test_typed_values_are_those_of_the_datatype_and_as_many_as_the_shape_makes(client, ask_grpc):
    request = ask_grpc([1, 2], raw=False)
    request.inputs[0].contents.fp32_contents.append(1)
    _, words = client.refusal("ModelInfer", request.SerializeToString())
    assert "values in another field than that of FP64; send all in fp64_contents" in words
    request = ask_grpc([1, 2], raw=False)
    request.inputs[0].contents.fp64_contents.append(1)
    _, words = client.refusal("ModelInfer", request.SerializeToString())
    assert "3 values, where the shape makes 2" in words
    request = ask_grpc([1, 2], raw=False)
    request.inputs[0].datatype = "FP16"
    _, words = client.refusal("ModelInfer", request.SerializeToString())
    assert "FP16 has no typed contents" in words


@pytest.mark.parametrize("rows", [3, 4])
def test_more_rows_than_the_limit_are_refused(
    serve_models, program, inline, grpc_client, ask_grpc, rows
):
    client = grpc_client(serve_models(("fake", program, inline), max_rows=3))
    request = ask_grpc(*[[1, 2]] * rows)
    if rows == 3:
        client.infer(request)
    else:
        code, words = client.refusal("ModelInfer", request.SerializeToString())
        assert (code, "4 rows are over the limit of 3" in words) == ("INVALID_ARGUMENT", True)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_bytes_that_are_no_request_are_invalid_and_never_our_mistake(client, ask_grpc, data):
    good = bytearray(ask_grpc([1, 2], [3, 4], id="a").SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good)))
        good[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        client.call("ModelInfer", bytes(good))
    except grpc.RpcError as error:
        assert error.code().name in ("INVALID_ARGUMENT", "NOT_FOUND")  # noqa: PT017 -- many pass


def test_every_kind_of_error_has_a_code():
    assert set(CODE_OF) == set(KINDS) == set(STATUS_OF)
    for kind in KINDS:
        assert CODE_OF[kind] in {code.value[0] for code in grpc.StatusCode}
    assert code_of(BasculeError("x")) == INTERNAL
    assert code_of(HttpError("x", status=404, code=12)) == 12


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_told_by_its_code_and_counted_by_its_status(
    serve_models, program, inline, grpc_client, ask_grpc, kind
):
    running = serve_models(("fake", program, inline))
    program.poison, program.problem = 1.0, kind("it says no; déjà vu", hint="ask 100% later")
    client = grpc_client(running)
    with pytest.raises(grpc.RpcError) as refused:
        client.infer(ask_grpc([1, 2]))
    assert refused.value.code().value[0] == CODE_OF[kind]
    says = refused.value.details()
    if kind is ModelFailed:
        assert says.startswith("the model failed; ")
    else:
        assert says == "it says no; déjà vu; ask 100% later"
    assert running.counted() == {STATUS_OF[kind]: 1}
    trailers = dict(refused.value.trailing_metadata())
    may_retry = kind.__name__ in ("Overloaded", "Unavailable")
    assert trailers.get("grpc-retry-pushback-ms") == ("1000" if may_retry else None)


def test_what_a_program_raises_is_not_told_to_its_caller(client, program, ask_grpc):
    program.poison = 1.0
    code, words = client.refusal("ModelInfer", ask_grpc([1, 2]).SerializeToString())
    assert code == "INTERNAL"
    assert re.fullmatch(
        "the model failed; the server's log has the reason under id [0-9a-f]{16}-[0-9a-f]+", words
    )


# -- compression --


@pytest.mark.parametrize("encoding", [b"", *ENCODINGS])
@pytest.mark.parametrize("rows", [1, 1_000])
@pytest.mark.parametrize("version", ["", "v" * 128])
def test_the_beginning_of_a_message_names_its_model_and_version(ask_grpc, encoding, rows, version):
    request = ask_grpc(*[[1, 2]] * rows, model_version=version, id="mine")
    request.model_name = "m" * 128
    message = request.SerializeToString()
    data = compressed(message, encoding) if encoding else enclosed(message)
    beginning = beginning_of(data, encoding, 512)
    assert len(beginning) <= 512
    assert read_first_name_and_version(beginning) == ("m" * 128, version)


@pytest.mark.parametrize(
    ("data", "encoding", "named"),
    [
        (b"", b"", ""),
        (enclosed(b"\xff"), b"", ""),
        (enclosed(b"\x0a\x02\xff\xff"), b"", ""),
        (enclosed(b"\x0a\x01m\xff"), b"", "m"),
        (b"\1\0\0\0\3abc", b"gzip", ""),
        (b"\1\0\0\0\3abc", b"", ""),
    ],
)
def test_a_beginning_that_cannot_be_read_names_what_came_before_that(data, encoding, named):
    assert read_first_name_and_version(beginning_of(data, encoding, 512)) == (named, "")


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_compressed_request_is_answered_compressed(client, ask_grpc, algorithm):
    rows = [[number, 1] for number in range(500)]
    answer = client.infer(ask_grpc(*rows), compression=algorithm)
    np.testing.assert_array_equal(values(answer, "sum"), [number + 1 for number in range(500)])


def test_a_message_that_grows_over_the_limit_is_refused_while_it_grows(
    serve_models, program, inline, grpc_client
):
    client = grpc_client(serve_models(("fake", program, inline), max_body_bytes=10_000))
    code, words = client.refusal("ModelInfer", bytes(10_001), compression=grpc.Compression.Gzip)
    assert (code, "over 10000 bytes" in words) == ("INVALID_ARGUMENT", True)
    code, words = client.refusal("ModelInfer", bytes(10_000), compression=grpc.Compression.Gzip)
    assert (code, "number 0" in words) == ("INVALID_ARGUMENT", True)


# -- deadlines, and callers that go --


def test_a_deadline_is_that_of_the_caller(serve_models, program, thread, grpc_client, ask_grpc):
    running = serve_models(("fake", program, thread))
    client = grpc_client(running)
    program.gate.clear()
    code, _ = client.refusal("ModelInfer", ask_grpc([1, 2]).SerializeToString(), timeout=0.15)
    assert code == "DEADLINE_EXCEEDED"
    running.until(lambda: running.counted() == {504: 1})
    program.gate.set()


def test_the_servers_own_deadline_holds_too(serve_models, program, thread, grpc_client, ask_grpc):
    running = serve_models(("fake", program, thread), deadline_s=0.05)
    client = grpc_client(running)
    program.gate.clear()
    code, words = client.refusal("ModelInfer", ask_grpc([1, 2]).SerializeToString())
    program.gate.set()
    assert (code, "no answer within 50 ms" in words) == ("DEADLINE_EXCEEDED", True)
    assert running.counted() == {504: 1}


def test_a_call_that_is_given_up_leaves_the_queue(
    serve_models, program, thread, grpc_client, ask_grpc
):
    running = serve_models(("fake", program, thread))
    client = grpc_client(running)
    program.gate.clear()
    call = client.method("ModelInfer")
    first = call.future(ask_grpc([1, 2]).SerializeToString())
    assert program.running.wait(10)
    second = call.future(ask_grpc([3, 4]).SerializeToString())
    (model,) = running.models
    running.until(lambda: model.engine.batcher.open_calls == 2)
    second.cancel()
    running.until(lambda: model.engine.batcher.open_calls == 1)
    program.gate.set()
    first.result(10)
    assert program.runs == [1]
    assert running.counted() == {200: 1, 499: 1}


def test_over_the_queue_a_call_is_turned_away_at_once(
    serve_models, program, thread, grpc_client, ask_grpc
):
    running = serve_models(("fake", program, thread), max_queue_requests=1)
    client = grpc_client(running)
    program.gate.clear()
    first = client.method("ModelInfer").future(ask_grpc([1, 2]).SerializeToString())
    assert program.running.wait(10)
    code, words = client.refusal("ModelInfer", ask_grpc([1, 2]).SerializeToString())
    program.gate.set()
    first.result(10)
    assert (code, "as many as it may" in words) == ("RESOURCE_EXHAUSTED", True)
    assert running.counted() == {200: 1, 429: 1}


# -- health and reflection --


def test_health_is_told_of_the_server_its_services_and_its_models(client, messages):
    request = messages("grpc.health.v1.HealthCheckRequest")
    response = messages("grpc.health.v1.HealthCheckResponse")
    for name in ("", "inference.GRPCInferenceService", "grpc.health.v1.Health", "fake"):
        answer = client.call(
            "/grpc.health.v1.Health/Check", request(service=name).SerializeToString()
        )
        assert response.FromString(answer).status == 1
    code, _ = client.refusal(
        "/grpc.health.v1.Health/Check", request(service="no").SerializeToString()
    )
    assert code == "NOT_FOUND"


def test_a_watch_is_told_when_health_changes(client, served, messages):
    request = messages("grpc.health.v1.HealthCheckRequest")
    response = messages("grpc.health.v1.HealthCheckResponse")
    watch = client.channel.unary_stream("/grpc.health.v1.Health/Watch")
    calls = [watch(request(service=n).SerializeToString(), timeout=10) for n in ("", "no")]
    assert response.FromString(next(calls[0])).status == 1
    assert response.FromString(next(calls[1])).status == 3

    def leave():
        served.site.draining = True

    served.on_loop(leave)
    served.after(1)
    assert response.FromString(next(calls[0])).status == 2
    for call in calls:
        call.cancel()
    served.until(lambda: served.totals()[0].by_status == {200: 2})


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_a_tool_without_stubs_finds_its_way(client, messages, version):
    """As grpcurl does: the services, the file of one, and a call made of what it says."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    request = messages(f"grpc.reflection.{version}.ServerReflectionRequest")
    response = messages(f"grpc.reflection.{version}.ServerReflectionResponse")
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    asked = [
        request(host="h", list_services="*"),
        request(file_containing_symbol="inference.GRPCInferenceService"),
        request(file_containing_symbol="inference.GRPCInferenceService.ModelReady"),
        request(file_by_filename="health.proto"),
        request(file_by_filename="nope.proto"),
        request(all_extension_numbers_of_type="inference.ModelReadyRequest"),
    ]
    call = client.channel.stream_stream(method)
    told = [
        response.FromString(b)
        for b in call(iter([r.SerializeToString() for r in asked]), timeout=10)
    ]

    assert [one.original_request for one in told] == asked
    assert told[0].valid_host == "h"
    services = [one.name for one in told[0].list_services_response.service]
    assert services[0] == "inference.GRPCInferenceService"
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for one in told[1:4]
        for data in one.file_descriptor_response.file_descriptor_proto
    ]
    assert [file.name for file in files] == ["grpc_predict_v2.proto"] * 2 + ["health.proto"]
    assert [one.error_response.error_code for one in told[4:]] == [5, 5]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(files[0])
    service = pool.FindServiceByName(services[0])
    method = service.FindMethodByName("ModelReady")
    made = message_factory.GetMessageClass(method.input_type)(name="fake")
    answer = client.call("ModelReady", made.SerializeToString())
    assert message_factory.GetMessageClass(method.output_type).FromString(answer).ready
    for one in service.methods:
        if one.name != "ModelInfer":
            client.call(one.name, b"\x0a\x04fake")


# -- the same as over HTTP --


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(
        # Twice and the sum of these are numbers too, so JSON has them.
        st.tuples(*[st.floats(-1e300, 1e300)] * 2),
        min_size=1, max_size=5,
    ),
    raw=st.booleans(),
)  # fmt: skip
def test_the_same_input_gives_the_same_bits_over_http(client, served, ask, ask_grpc, rows, raw):
    answer = client.infer(ask_grpc(*rows, raw=raw))
    with served.client() as http:
        told = http.request("POST", "/v2/models/fake/infer", ask(*rows)).answer().json
    for output in told["outputs"]:
        expected = np.array(output["data"], np.float64).reshape(output["shape"])
        assert values(answer, output["name"]).tobytes() == expected.tobytes()


class Where:
    def __str__(self):
        return "here"

    def value(self, position):
        return f"here[{position}]"


@pytest.mark.parametrize("dtype", DType)
def test_raw_values_are_read_as_they_were_written(dtype):
    array = (
        np.array(["", "a", "é"], object)
        if dtype is DType.BYTES
        else np.array([0, 1, 1]).astype(dtype.numpy)
    )
    raw = raw_of(array, dtype)
    read = raw_reader(Field("x", dtype), dtype, dtype)
    made = read(b"?" + raw, 1, len(raw), 3, Where())
    assert made.dtype == dtype.numpy
    assert made.tolist() == array.tolist()
    for wrong in (raw[:-1], raw + b"\0"):
        with pytest.raises(BasculeError, match="here"):
            read(wrong, 0, len(wrong), 3, Where())


@pytest.mark.parametrize(
    ("sent", "field", "fits"),
    [
        (np.float64(3.4e38), Field("x", DType.FP32), True),
        (np.float64(3.5e38), Field("x", DType.FP32), False),
        (np.float32(65504), Field("x", DType.FP16), True),
        (np.float32(65600), Field("x", DType.FP16), False),
        (np.int64(65504), Field("x", DType.FP16), True),
        (np.int64(65600), Field("x", DType.FP16), False),
        (np.int64(2**31 - 1), Field("x", DType.INT32), True),
        (np.int64(2**31), Field("x", DType.INT32), False),
        (np.uint64(2**63), Field("x", DType.INT64), False),
        (np.int8(-1), Field("x", DType.UINT8), False),
        (np.float32(np.nan), Field("x", DType.FP64), False),
        (np.float32(np.nan), Field("x", DType.FP64, nullable=True), True),
        (np.float32(np.inf), Field("x", DType.FP64, nullable=True), False),
        (np.float16(np.inf), Field("x", DType.FP32), False),
        (np.int32(3), Field("x", DType.INT64, categories=(1, 3)), True),
        (np.int32(2), Field("x", DType.INT64, categories=(1, 3)), False),
    ],
)
def test_a_value_is_taken_where_it_fits_the_field(sent, field, fits):
    array = np.array([0 if field.categories is None else 1, sent], np.asarray(sent).dtype)
    kind = next(dtype for dtype in DType if dtype.numpy == array.dtype)
    read = raw_reader(field, field.dtype, kind)
    raw = array.tobytes()
    if fits:
        taken = read(raw, 0, len(raw), 2, Where())
        assert taken.dtype == field.dtype.numpy
        np.testing.assert_array_equal(taken, array.astype(field.dtype.numpy))
    else:
        with pytest.raises(BasculeError, match=r"here\[1\]"):
            read(raw, 0, len(raw), 2, Where())
