"""The wire format by hand, beside the library that defines it."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings, strategies as st
from tests.tiers import examples

from bascule.core.errors import Invalid
from bascule.core.fields import DType
from bascule.serving.codecs import protobuf as wire
from bascule.serving.protocols.descriptors import read_descriptors
from bascule.serving.protocols.oip_messages import (
    CONTENTS_OF,
    TEXTS,
    contents_of,
    parameter,
    read_infer_request,
    read_name_and_version,
)

CONTENTS = (
    "bool_contents", "int_contents", "int64_contents", "uint_contents", "uint64_contents",
    "fp32_contents", "fp64_contents", "bytes_contents",
)  # fmt: skip

numbers = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 127, 128, 2**31, 2**63]))
texts = st.one_of(st.sampled_from([b"x", b"FP32", b"id", "é".encode()]), st.binary(max_size=4))


def field(number, kind, content):
    return wire.varint(number << 3 | kind) + content


@st.composite
def message_bytes(draw, depth=3):
    """Fields of any number and type: near a request, and often not one."""
    made = b""
    for _ in range(draw(st.integers(0, 5))):
        number = draw(st.integers(1, 9))
        kind = draw(st.sampled_from([0, 1, 2, 2, 2, 2, 5]))
        if kind == wire.VARINT:
            made += field(number, kind, wire.varint(draw(numbers)))
        elif kind == wire.FIXED64:
            made += field(number, kind, draw(st.binary(min_size=8, max_size=8)))
        elif kind == wire.FIXED32:
            made += field(number, kind, draw(st.binary(min_size=4, max_size=4)))
        else:
            inner = draw(st.one_of(texts, message_bytes(depth - 1)) if depth else texts)
            made += field(number, kind, wire.varint(len(inner)) + inner)
    return made


@st.composite
def spoilt(draw):
    """The same with some bytes changed, cut off or put in."""
    made = bytearray(draw(message_bytes()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(made)))
        made[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(made)


def same(ours, theirs):
    return ours == theirs or (
        isinstance(ours, float)
        and isinstance(theirs, float)
        and math.isnan(ours)
        and math.isnan(theirs)
    )


def parameters_of(mapping):
    made = {}
    for name, value in mapping.items():
        which = value.WhichOneof("parameter_choice")
        made[name] = None if which is None else getattr(value, which)
    return made


def assert_same_parameters(ours, theirs):
    theirs = parameters_of(theirs)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert same(value, theirs[name])
        assert type(value) is type(theirs[name])


@settings(max_examples=examples(600), deadline=None)
@given(data=st.one_of(message_bytes(), spoilt(), st.binary(max_size=40)))
@example(data=b"\x2a\x03\x1a\x01\x80")
@example(data=field(9, wire.GROUP, field(9, wire.END_GROUP, b"")))
@example(data=field(9, wire.GROUP, field(8, wire.END_GROUP, b"")))
@example(data=field(9, wire.END_GROUP, b""))
@example(data=b"\x00\x00")
@example(data=b"\x80\x80\x80\x80\x80\x01\x00")
@example(data=b"\x18" + b"\xff" * 9 + b"\x7f")
@example(data=b"\x18" + b"\xff" * 10 + b"\x01")
def test_any_bytes_mean_what_they_mean_to_the_real_library_or_are_refused_by_both(messages, data):
    try:
        theirs = messages("ModelInferRequest").FromString(data)
    except DecodeError:
        with pytest.raises(Invalid, match="not a protocol buffer"):
            read_infer_request(data)
        return
    ours = read_infer_request(data)

    assert ours[:3] == (theirs.model_name, theirs.model_version, theirs.id)
    assert data[slice(*ours.id_at)].decode() == ours.id
    assert_same_parameters(ours.parameters, theirs.parameters)
    assert [data[start:end] for start, end in ours.raw] == list(theirs.raw_input_contents)
    assert ours.outputs == [one.name for one in theirs.outputs]
    assert len(ours.inputs) == len(theirs.inputs)
    for tensor, other in zip(ours.inputs, theirs.inputs, strict=True):
        assert tensor[:3] == (other.name, other.datatype, tuple(other.shape))
        assert_same_parameters(tensor.parameters, other.parameters)
        for number, name in enumerate(CONTENTS, start=1):
            expected = list(getattr(other.contents, name))
            found = tensor.contents.get(number, [])
            assert len(found) == len(expected)
            if number == TEXTS:
                assert found == expected
            else:
                np.testing.assert_array_equal(np.array(found), np.array(expected))


@settings(max_examples=examples(200), deadline=None)
@given(data=st.one_of(spoilt(), st.binary(max_size=20)))
def test_small_requests_too(messages, data):
    try:
        theirs = messages("ModelReadyRequest").FromString(data)
    except DecodeError:
        with pytest.raises(Invalid):
            read_name_and_version(data)
        return
    assert read_name_and_version(data) == (theirs.name, theirs.version)


@given(st.integers(-(2**63), 2**64 - 1))
def test_a_number_is_read_as_it_was_written(value):
    data = wire.varint(value)
    assert wire.read_varint(data, 0, len(data)) == (value % 2**64, len(data))
    assert wire.read_varints(data * 3, 0, 3 * len(data)).tolist() == [value % 2**64] * 3


@pytest.mark.parametrize(
    "value", [True, False, 0, 7, -7, 2**63 - 1, 0.5, -0.0, math.inf, "", "a text", "é"]
)
def test_a_parameter_is_what_the_real_library_reads(messages, value):
    data = parameter(4, "name", value)
    read = messages("ModelInferResponse").FromString(data).parameters
    assert parameters_of(read) == {"name": value}
    assert type(parameters_of(read)["name"]) is type(value)


@pytest.mark.parametrize("dtype", CONTENTS_OF)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_values_of_an_answer_are_what_the_real_library_reads(messages, dtype, count):
    if dtype is DType.BYTES:
        array = np.array(["", "a", "é", "a longer text", "x"][:count], object)
        expected = [text.encode() for text in array]
    elif dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        array = np.array([0, info.max, info.min, 1, 127][:count], dtype.numpy)
        expected = array.tolist()
    elif dtype.is_float:
        array = np.array([0.5, -0.0, 1e30, -1.5, 7][:count], dtype.numpy)
        expected = array.tolist()
    else:
        array = np.array([True, False, True, True, False][:count])
        expected = array.tolist()
    read = messages("InferTensorContents").FromString(contents_of(array, dtype))
    assert list(getattr(read, CONTENTS[CONTENTS_OF[dtype] - 1])) == expected


def test_deep_groups_are_refused_not_followed(messages):
    data = field(9, wire.GROUP, b"") * 5_000
    with pytest.raises(Invalid, match="nested too deeply"):
        read_infer_request(data)
    with pytest.raises(DecodeError):
        messages("ModelInferRequest").FromString(data)


def test_the_descriptors_are_those_of_the_clients(messages):
    """What reflection tells, beside what tritonclient was generated from."""
    # In a process of its own: its stubs claim the names of the protocol.
    script = (
        "import json; from tritonclient.grpc import service_pb2 as s;"
        "print(json.dumps({m.full_name: sorted((f.name, f.number, f.type, f.label, "
        "f.message_type.full_name if f.message_type else '') for f in m.fields)"
        " for m in s.DESCRIPTOR.message_types_by_name.values()}))"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    theirs = json.loads(told.stdout)
    for name in (
        "ServerLiveResponse", "ServerReadyResponse", "ModelReadyRequest", "ModelReadyResponse",
        "ServerMetadataResponse", "ModelMetadataRequest", "ModelMetadataResponse",
        "ModelInferRequest", "ModelInferResponse", "InferParameter", "InferTensorContents",
        "RepositoryIndexRequest", "RepositoryIndexResponse",
    ):  # fmt: skip
        ours = messages(name).DESCRIPTOR
        fields = sorted(
            [f.name, f.number, f.type, f.label, f.message_type.full_name if f.message_type else ""]
            for f in ours.fields
        )
        assert fields == theirs[f"inference.{name}"], name


def test_the_compiled_descriptors_are_those_of_the_proto_files():
    """A `.proto` file that was changed without compiling it again fails here."""
    compiled = read_descriptors()
    folder = files("bascule.serving.protocols")
    on_disk = {file.name for file in folder.iterdir() if file.name.endswith(".proto")}
    assert {file.name for file in compiled} == on_disk
    for file in compiled:
        text = re.sub(r"//[^\n]*", "", folder.joinpath(file.name).read_text())
        parsed = descriptor_pb2.FileDescriptorProto.FromString(file.descriptor)
        written = set(re.findall(r"(\w+) = (\d+);", text))
        assert written == set(named_numbers(parsed)), file.name
        declared = re.findall(r"\b(?:message|enum|service|rpc) (\w+)", text)
        assert len(file.symbols) - entries_of_maps(parsed) == len(declared), file.name
        assert {name.rpartition(".")[2] for name in file.symbols} >= set(declared), file.name


def named_numbers(part):
    """Every field and every value of an enum, as the language writes them."""
    for message in messages_in(part):
        if not message.options.map_entry:
            yield from ((one.name, str(one.number)) for one in message.field)
            yield from named_numbers(message)
    for enum in part.enum_type:
        yield from ((one.name, str(one.number)) for one in enum.value)


def entries_of_maps(part):
    """How many messages stand for the pairs of maps, which no text declares."""
    return sum(one.options.map_entry + entries_of_maps(one) for one in messages_in(part))


def messages_in(part):
    """Those that a file, or a message, declares."""
    is_file = isinstance(part, descriptor_pb2.FileDescriptorProto)
    return part.message_type if is_file else part.nested_type


def test_the_messages_of_health_and_reflection_are_those_of_their_tools(messages):
    status = messages("grpc.health.v1.HealthCheckResponse")(status=1)
    assert MessageToDict(status) == {"status": "SERVING"}
    for version in ("v1", "v1alpha"):
        request = messages(f"grpc.reflection.{version}.ServerReflectionRequest")(list_services="*")
        assert request.WhichOneof("message_request") == "list_services"


def contents(number, values):
    return wire.block(5, wire.block(5, wire.block(number, values)))


@pytest.mark.parametrize(
    "message",
    [
        b"\x2a\x00" * 4_000_000,
        b"\x32\x00" * 4_000_000,
        b"\x3a\x00" * 4_000_000,
        b"\x22\x00" * 4_000_000,
        b"\x78\x00" * 4_000_000,
        wire.block(5, b"\x18\x01" * 4_000_000),
        wire.block(5, b"\x1a\x02\x01\x01" * 2_000_000),
        wire.block(5, wire.block(3, b"\x01" * 8_000_000)),
        wire.block(5, b"\x22\x00" * 4_000_000),
        wire.block(5, wire.block(5, b"\x42\x00" * 4_000_000)),
        wire.block(5, wire.block(5, b"\x18\x01" * 4_000_000)),
        contents(3, b"\x01" * 8_000_000),
        contents(1, b"\x01" * 8_000_000),
    ],
    ids=[
        "tensors", "outputs", "raw", "parameters", "unknown", "lengths one by one",
        "lengths in pieces", "a shape", "parameters of a tensor", "texts", "numbers one by one",
        "packed numbers", "packed flags",
    ],
)  # fmt: skip
def test_fields_of_two_bytes_are_bounded_before_they_are_objects(message):
    with pytest.raises(Invalid):
        read_infer_request(message)
