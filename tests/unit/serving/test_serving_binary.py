"""Tensors as bytes after the JSON of a request: the same values, held to the same fields."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from bascule.core.errors import Invalid, TooLarge
from bascule.core.fields import DType, Field
from bascule.serving.codecs.raw_tensors import raw_of, raw_reader
from bascule.serving.protocols.oip_json import Decoder

OUTPUTS = (Field("label", DType.INT64), Field("probabilities", DType.FP32, (2,)))
INTEGERS = [dtype for dtype in DType if dtype.is_integer]
FLOATS = [dtype for dtype in DType if dtype.is_float]


def x(dtype, **more):
    return Field("x", dtype, **more)


def tensor(datatype, shape, size, name="x", **parameters):
    return {
        "name": name,
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": size, **parameters},
    }


def body_of(*parts, **more):
    """A body of (tensor, bytes) pairs, and how much of it is JSON."""
    head = json.dumps({"inputs": [said for said, _ in parts], **more}).encode()
    return head + b"".join(data for _, data in parts), len(head)


def decode(body, json_bytes, *fields, targets=None, max_rows=1_000):
    run = Decoder().for_fields(fields, targets or fields, OUTPUTS, max_rows)
    return run(body, json_bytes)


def column(field, data, sent=None, target=None, shape=None):
    """One column that is sent as bytes, as the program would read it."""
    sent = sent or field.dtype
    if not isinstance(data, bytes):
        data = np.array(data, sent.numpy).tobytes()
        shape = shape or [len(data) // sent.numpy.itemsize]
    body, json_bytes = body_of((tensor(sent.value, shape, len(data)), data))
    targets = (Field("x", target or field.dtype, field.shape),)
    return decode(body, json_bytes, field, targets=targets)[1].columns["x"]


def refusal(field, data, **more):
    with pytest.raises(Invalid) as refused:
        column(field, data, **more)
    return refused.value.message


# -- numbers --


@pytest.mark.parametrize("sent", INTEGERS)
@pytest.mark.parametrize("taken", INTEGERS)
def test_a_whole_number_of_any_type_is_taken_where_its_value_fits(sent, taken):
    given, takes = np.iinfo(sent.numpy), np.iinfo(taken.numpy)
    ends = [max(int(given.min), int(takes.min)), min(int(given.max), int(takes.max))]
    made = column(x(taken), ends, sent=sent)
    assert (made.dtype, made.tolist()) == (taken.numpy, ends)
    for beyond in (ends[0] - 1, ends[1] + 1):
        if int(given.min) <= beyond <= int(given.max):
            assert refusal(x(taken), [ends[0], beyond], sent=sent) == (
                f"inputs[0] (x).data[1]: {beyond}, where the model takes whole numbers of "
                f"{taken.value}"
            )


@pytest.mark.parametrize("sent", FLOATS)
@pytest.mark.parametrize("taken", FLOATS)
def test_a_float_of_any_type_is_taken_where_it_fits(sent, taken):
    largest = min(float(np.finfo(kind.numpy).max) for kind in (sent, taken))
    made = column(x(taken), [largest, -largest, 0.5], sent=sent)
    assert (made.dtype, made.tolist()) == (taken.numpy, [largest, -largest, 0.5])
    with np.errstate(over="ignore"):
        beyond = float(np.array(largest * 1.001, sent.numpy))
    if np.isfinite(beyond):
        told = refusal(x(taken), [0.5, beyond], sent=sent)
        assert told.startswith("inputs[0] (x).data[1]: ")
        assert told.endswith(f"does not fit {taken.value}")


@pytest.mark.parametrize("sent", INTEGERS)
def test_whole_numbers_are_taken_for_floats(sent):
    assert column(x(DType.FP32), [1, 2, 100], sent=sent).tolist() == [1.0, 2.0, 100.0]


@pytest.mark.parametrize("field", [x(DType.INT64), x(DType.BOOL), x(DType.BYTES)])
def test_a_float_is_taken_for_nothing_else(field):
    assert "datatype: FP32, where" in refusal(field, [1.0], sent=DType.FP32)


@pytest.mark.parametrize("sent", FLOATS)
@pytest.mark.parametrize("taken", FLOATS)
@pytest.mark.parametrize("count", [1, 3])
def test_nan_is_a_missing_number_and_is_refused_where_none_may_be_missing(sent, taken, count):
    values = [1.0] * count + [float("nan")]
    made = column(x(taken, nullable=True), values, sent=sent)
    assert np.isnan(made[count])
    assert not np.isnan(made[:count]).any()
    assert refusal(x(taken), values, sent=sent) == (
        f"inputs[0] (x).data[{count}] is null or NaN, and the model does not take missing values "
        "there"
    )


@pytest.mark.parametrize("sent", FLOATS)
@pytest.mark.parametrize("nullable", [True, False])
@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_what_is_infinite_is_refused_as_it_cannot_be_said_in_json_either(sent, nullable, value):
    assert refusal(x(sent, nullable=nullable), [0.0, value], sent=sent) == (
        "inputs[0] (x).data[1] is infinite, where the model takes numbers"
    )


def test_numbers_whose_squares_overflow_are_numbers():
    assert column(x(DType.FP32), [3e38, -3e38]).tolist() == [
        float(np.float32(3e38)),
        float(np.float32(-3e38)),
    ]
    assert column(x(DType.FP64), [1e308, -1e308]).tolist() == [1e308, -1e308]


def test_numbers_in_the_type_that_the_program_takes_are_read_in_place():
    field = x(DType.FP32)
    read = raw_reader(field, DType.FP32, DType.FP32)
    data = np.arange(8, dtype=np.float32).tobytes()

    assert read(data, 0, 32, 8, "x").base is not None
    # At an odd place some programs would not read it.
    moved = read(b"?" + data, 1, 32, 8, "x")
    assert moved.flags.aligned
    assert moved.tolist() == list(range(8))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_bytes_and_json_make_the_same_bits(values):
    field = x(DType.FP32)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(values)], "data": values}]}
    said = Decoder().for_fields((field,), (field,), OUTPUTS, 1_000)(json.dumps(body).encode())[1]

    assert column(field, values).tobytes() == said.columns["x"].tobytes()


@pytest.mark.parametrize("target", [DType.FP32, DType.FP64])
@pytest.mark.parametrize("sent", [DType.FP32, DType.FP64])
@pytest.mark.parametrize(
    ("bounds", "within", "beyond"),
    [
        ((-3e38, 3e38), [2.9e38, -2.9e38], [3.1e38, -3.1e38]),
        ((0.0, 10.0), [0.0, 10.0], [-1.0, 10.5]),
        ((1.0, 5.0), [1.0, 5.0], [0.0, 5.5]),
    ],
)
def test_numbers_beyond_what_the_model_takes_are_refused(target, sent, bounds, within, beyond):
    field = x(DType.FP64, bounds=bounds, nullable=True)
    assert column(field, within, sent, target).tolist() == pytest.approx(within)
    assert np.isnan(column(field, [within[0], np.nan], sent, target)[1])
    for number in beyond:
        told = refusal(field, [within[0], number], sent=sent, target=target)
        assert told.endswith("is a number that the model refuses")


@pytest.mark.parametrize("sent", [DType.INT64, DType.INT8, DType.UINT16])
@pytest.mark.parametrize("taken", [DType.INT64, DType.INT8, DType.FP64])
def test_whole_numbers_beyond_what_the_model_takes_are_refused(sent, taken):
    field = x(taken, bounds=(1, 11))
    assert column(field, [1, 11], sent).tolist() == [1, 11]
    for number in (0, 12):
        assert "data[1]" in refusal(field, [1, number], sent=sent)


# -- flags, text and categories --


def test_flags_are_bytes_of_one_and_zero():
    assert column(x(DType.BOOL), b"\x01\x00\x01", shape=[3]).tolist() == [True, False, True]
    told = refusal(x(DType.BOOL), b"\x01\x02", shape=[2])
    assert told == "inputs[0] (x).data[1]: byte 2, where the model takes true or false"


def packed(*texts):
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


@pytest.mark.parametrize("text", ["", "é", "日本", "a\x00b", "x" * 70_000])
def test_text_arrives_as_it_was_sent(text):
    data = packed(text.encode(), b"end")
    assert column(x(DType.BYTES), data, shape=[2]).tolist() == [text, "end"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (packed(b"a"), "inputs[0] (x).data: 1 values, where the shape makes 2"),
        (packed(b"a", b"b", b"c"), "inputs[0] (x).data: 3 values, where the shape makes 2"),
        (packed(b"a", b"\xff"), "inputs[0] (x).data[1]: not UTF-8"),
        (packed(b"a") + b"\x02\x00\x00\x00b", "inputs[0] (x).data[1]: the text goes on after"),
        (packed(b"a") + b"\xff\xff\xff\xff", "inputs[0] (x).data[1]: the text goes on after"),
        (packed(b"a") + b"\x01\x00", "inputs[0] (x).data[1]: the text goes on after"),
        (b"", "inputs[0] (x).data: 0 values, where the shape makes 2"),
    ],
)
def test_bytes_that_are_no_text_are_refused(data, told):
    assert refusal(x(DType.BYTES), data, shape=[2]).startswith(told)


@pytest.mark.parametrize(
    ("dtype", "known", "data"),
    [
        (DType.BYTES, ("a", "b"), packed(b"a", b"c")),
        (DType.INT8, (1, 2), np.array([1, 3], np.int8).tobytes()),
        (DType.FP32, (1, 2), np.array([1, 3], np.float32).tobytes()),
    ],
)
def test_a_value_that_the_model_does_not_know_is_refused(dtype, known, data):
    told = refusal(x(dtype, categories=known), data, shape=[2])
    assert told.startswith("inputs[0] (x).data[1]: '")
    assert told.endswith("' is not a category of the model")


# -- the body as a whole --

ONE = np.float32(1).tobytes()


def test_bytes_and_json_may_stand_side_by_side_in_any_order():
    a, b, c = (Field(name, DType.FP32) for name in "abc")
    body, json_bytes = body_of(
        (tensor("FP32", [1], 4, name="c"), ONE),
        ({"name": "a", "datatype": "FP32", "shape": [1], "data": [2]}, b""),
        (tensor("FP32", [1], 4, name="b"), ONE * 1),
    )
    columns = decode(body, json_bytes, a, b, c)[1].columns
    assert {name: array.tolist() for name, array in columns.items()} == {
        "a": [2],
        "b": [1],
        "c": [1],
    }


@pytest.mark.parametrize(
    ("said", "data", "told"),
    [
        (tensor("FP32", [1], 3), b"123", "inputs[0] (x).data: 3 bytes, where the shape makes 4"),
        (tensor("FP32", [1], 8), ONE * 2, "inputs[0] (x).data: 8 bytes, where the shape makes 4"),
        (tensor("FP32", [1], 8), ONE, "inputs[0] (x).parameters.binary_data_size: 8, where 4"),
        (tensor("FP32", [1], 4), ONE + b"!", "1 bytes of the body follow the last tensor"),
        (tensor("FP32", [1], -4), ONE, "inputs[0] (x).data: missing, or not a list"),
        (tensor("FP32", [1], "4"), ONE, "inputs[0] (x).data: missing, or not a list"),
        (tensor("FP32", [1], True), ONE, "inputs[0] (x).data: missing, or not a list"),
        (tensor("FP32", [1], 10**20), ONE, ""),
        (tensor("FP32", [2, 2], 4), ONE, "inputs[0] (x).shape: [2, 2] is not [rows]"),
    ],
)
def test_lengths_that_do_not_agree_are_refused(said, data, told):
    body, json_bytes = body_of((said, data))
    with pytest.raises(Invalid) as refused:
        decode(body, json_bytes, x(DType.FP32))
    assert refused.value.message.startswith(told)


def test_bytes_without_the_header_that_announces_them_are_not_looked_for():
    body, _ = body_of((tensor("FP32", [1], 4), b""))
    with pytest.raises(Invalid, match="missing, or not a list"):
        decode(body, -1, x(DType.FP32))


@pytest.mark.parametrize("over", [0, 1])
def test_a_header_longer_than_the_body_is_refused(over):
    body, json_bytes = body_of(({"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}, b""))
    if not over:
        assert decode(body, json_bytes, x(DType.FP32))[1].rows == 1
        return
    with pytest.raises(Invalid, match="is more than the"):
        decode(body, json_bytes + over, x(DType.FP32))


def test_a_body_of_nothing_but_bytes_is_rows_of_the_only_input():
    matrix = x(DType.FP32, shape=(3,))
    data = np.arange(6, dtype=np.float32).tobytes()
    call_id, call, as_bytes = decode(data, 0, matrix)
    assert (call_id, call.rows, as_bytes) == (None, 2, None)
    assert call.columns["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    for bad in (b"", data[:-1], data + b"\0"):
        with pytest.raises(Invalid, match="no whole number of rows"):
            decode(bad, 0, matrix)
    with pytest.raises(TooLarge):
        decode(data, 0, matrix, max_rows=1)
    for fields in (
        (x(DType.BYTES),),
        (x(DType.FP32, shape=(-1,)),),
        (matrix, Field("y", DType.FP32)),
    ):
        with pytest.raises(Invalid, match="Inference-Header-Content-Length: 0"):
            decode(data, 0, *fields)


def test_a_json_that_was_read_before_means_the_same_of_other_bytes_and_is_checked_as_ever():
    run = Decoder().for_fields((x(DType.FP32),), (x(DType.FP64),), OUTPUTS, 1_000)
    more = {"outputs": [{"name": "label"}], "parameters": {"binary_data_output": True}}

    def ask(*values, size=8):
        body, json_bytes = body_of((tensor("FP32", [2], size), b""), **more)
        return run(body + np.array(values, np.float32).tobytes(), json_bytes)

    for values in ([1, 2], [3, 4], [5, 6]):
        call_id, call, as_bytes = ask(*values)
        assert (call_id, call.rows, call.outputs) == (None, 2, ("label",))
        assert (call.columns["x"].tolist(), call.columns["x"].dtype) == (values, np.float64)
        assert as_bytes.wants("label")
    with pytest.raises(Invalid, match=r"data\[1\] is null or NaN"):
        ask(1, float("nan"))
    with pytest.raises(Invalid, match="where 4 bytes are left of the body"):
        ask(1)
    with pytest.raises(Invalid, match="4 bytes of the body follow the last tensor"):
        ask(1, 2, 3)
    assert ask(7, 8)[1].columns["x"].tolist() == [7, 8]


def test_values_that_stand_in_the_json_are_read_anew_each_time():
    fields = (x(DType.FP32), Field("y", DType.FP32))
    run = Decoder().for_fields(fields, fields, OUTPUTS, 1_000)
    for value, call_id in ((1.0, None), (2.0, None), (2.0, "a"), (2.0, "b")):
        said = {"name": "y", "datatype": "FP32", "shape": [1], "data": [value]}
        body, json_bytes = body_of((tensor("FP32", [1], 4), ONE), (said, b""), id=call_id)
        found, call, _ = run(body, json_bytes)
        assert (found, call.columns["y"].tolist()) == (call_id, [value])
    for call_id in ("a", "b"):
        body, json_bytes = body_of((tensor("FP32", [1], 4), ONE), (said, b""), id=call_id)
        assert run(body, json_bytes)[0] == call_id


def test_a_length_that_may_vary_is_that_of_the_request():
    made = column(
        x(DType.FP32, shape=(-1,)), np.arange(6, dtype=np.float32).tobytes(), shape=[2, 3]
    )
    assert made.tolist() == [[0, 1, 2], [3, 4, 5]]


# -- answers --

INFER = "/v2/models/m/infer"


def read(answer):
    length = int(answer.headers["inference-header-content-length"])
    return json.loads(answer.body[:length]), answer.body[length:]


def test_all_outputs_or_some_are_answered_as_bytes(serve_models, program, inline, ask):
    server = serve_models(("m", program, inline))
    with server.client() as client:
        every = ask([1, 2], parameters={"binary_data_output": True})
        said, tail = read(client.request("POST", INFER, every).answer())
        assert [output["parameters"] for output in said["outputs"]] == [
            {"binary_data_size": 16},
            {"binary_data_size": 8},
        ]
        assert np.frombuffer(tail).tolist() == [2, 4, 3]
        assert [output["shape"] for output in said["outputs"]] == [[1, 2], [1]]

        some = ask(
            [1, 2],
            outputs=[{"name": "sum", "parameters": {"binary_data": True}}, {"name": "twice"}],
        )
        said, tail = read(client.request("POST", INFER, some).answer())
        assert [output.get("data") for output in said["outputs"]] == [None, [2, 4]]
        assert np.frombuffer(tail).tolist() == [3]

        other = ask(
            [1, 2],
            outputs=[{"name": "sum", "parameters": {"binary_data": False}}, {"name": "twice"}],
            parameters={"binary_data_output": True},
        )
        said, tail = read(client.request("POST", INFER, other).answer())
        assert [output.get("data") for output in said["outputs"]] == [[3], None]
        assert np.frombuffer(tail).tolist() == [2, 4]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"parameters": {"binary_data_output": 1}}, "parameters.binary_data_output: not true or"),
        ({"outputs": [{"name": "sum", "parameters": []}]}, "outputs[0].parameters: not an object"),
        (
            {"outputs": [{"name": "sum", "parameters": {"binary_data": "yes"}}]},
            "outputs[0].parameters.binary_data: not true or false",
        ),
        (
            {"outputs": [{"name": "sum", "parameters": {"classification": 3}}]},
            "outputs[0].parameters.classification: not supported",
        ),
    ],
)
def test_a_form_that_is_none_is_refused(serve_models, program, inline, ask, more, told):
    server = serve_models(("m", program, inline))
    with server.client() as client:
        answer = client.request("POST", INFER, ask([1, 2], **more)).answer()
    assert answer.status == 400
    assert answer.json["error"].startswith(told)


@pytest.mark.parametrize("length", ["", "-1", "1.0", "x", "9" * 30])
def test_a_header_that_is_no_length_is_refused(serve_models, program, inline, ask, length):
    server = serve_models(("m", program, inline))
    with server.client() as client:
        header = f"Inference-Header-Content-Length: {length}\r\n"
        answer = client.request("POST", INFER, ask([1, 2]), header).answer()
    assert answer.status == 400
    assert "Inference-Header-Content-Length" in answer.json["error"]


def test_texts_have_bytes_unless_one_is_missing():
    whole = np.array([["a", "é"]], object)
    assert raw_of(whole, DType.BYTES) == packed(b"a", "é".encode())
    assert raw_of(np.array(["a", None], object), DType.BYTES) is None
    assert raw_of(np.array([True, False]), DType.BOOL) == b"\x01\x00"
    assert raw_of(np.array([1.5], np.float64), DType.FP32) == np.float32(1.5).tobytes()


def test_a_size_that_is_given_twice_is_refused():
    tensor_ = (
        '{"name":"x","datatype":"FP32","shape":[1],'
        '"parameters":{"binary_data_size":4,"binary_data_size":8}}'
    )
    head = f'{{"inputs":[{tensor_}]}}'.encode()
    with pytest.raises(Invalid) as refused:
        decode(head + bytes(4), len(head), x(DType.FP32))
    assert refused.value.message == ("inputs[0] (x).parameters: 'binary_data_size' is given twice")


@pytest.mark.parametrize("sent", [DType.FP64, DType.UINT64])
def test_bytes_that_only_the_program_does_not_take_are_told_what_the_program_takes(sent):
    with pytest.raises(Invalid) as refused:
        column(x(DType.FP64), [1, 70_000], sent=sent, target=DType.FP16)
    assert refused.value.message == "inputs[0] (x).data[1]: 70000 does not fit FP16"
    assert refused.value.hint == "the model computes in FP16, and its largest number is 65504"
