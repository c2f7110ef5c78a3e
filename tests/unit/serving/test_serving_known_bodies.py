"""Bodies of which only the numbers differ from one that was read: they mean what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tests.tiers import examples

from bascule.core.errors import Invalid
from bascule.core.fields import DType, Field
from bascule.serving.protocols.oip_json import Decoder

OUTPUTS = (Field(name="label", dtype=DType.INT64, shape=()),)


def decoder(*, dtype=DType.FP64, target=DType.FP32, shape=(2,), max_rows=4, names=("x",)):
    inputs = [Field(name=name, dtype=dtype, shape=shape) for name in names]
    targets = [Field(name=name, dtype=target, shape=shape) for name in names]
    return Decoder().for_fields(inputs, targets, OUTPUTS, max_rows)


def outcome(decode, body):
    """What a body means: an error's words, or the call with its numbers to the last bit."""
    try:
        call_id, call, as_bytes = decode(body)
    except Invalid as error:
        return str(error)
    columns = {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in call.columns.items()
    }
    return call_id, columns, call.rows, call.outputs, call.extras, as_bytes


def body(data="[1, 2]", *, name='"x"', shape="[1, 2]", before="", after="", around=""):
    tensor = f'"name": {name}, "datatype": "FP64", "shape": {shape}, "data": {data}'
    return f'{{{before}"inputs": [{{{around}{tensor}}}]{after}}}'.encode()


LEARNT = [
    body(),
    body(shape="[2, 2]", data="[1, 2, 3, 4]"),
    body(before='"id": null, '),
    body(after=', "outputs": [{"name": "label"}]'),
    body(around='"parameters": {"data": [5]}, '),
    body(before='"parameters": {"data": 7}, '),
    body(name='"\\u0078"'),
    b'{"inputs":[{"data":[1,2],"name":"x","datatype":"FP64","shape":[1,2]}]}',
    b'{"inputs":[{"data":[1,2],"name":"x","data":[3,4],"datatype":"FP64","shape":[1,2]}]}',
]

PIECES = [
    "1", "-2.5", "1e400", "1e39", "12345678901234567890", "null", "NaN", "true", '"a"', "[1]", "{}",
    "", " ", ",", "]", "[", "}", ": 1", '"data": [1, 2]', "\ud800", "0x1", "01", "1.", "-", "1 2",
]  # fmt: skip


@settings(max_examples=examples(400), deadline=None)
@given(
    learnt=st.lists(st.sampled_from(LEARNT), min_size=1, max_size=4),
    pieces=st.one_of(
        st.lists(st.sampled_from(["8", "-9.5"]), min_size=2, max_size=2),
        st.lists(st.sampled_from(PIECES), max_size=6),
    ),
    separator=st.sampled_from([",", ", ", "", "\n,"]),
    into=st.sampled_from(LEARNT),
    data=st.data(),
)
def test_a_decoder_that_has_learnt_answers_as_one_that_has_not(
    learnt, pieces, separator, into, data
):
    """Whichever list of the body is exchanged."""
    decode = decoder()
    for known in [*learnt, into]:
        outcome(decode, known)
    lists = [place for place, byte in enumerate(into) if byte == ord("[")]
    start = data.draw(st.sampled_from(lists))
    numbers = separator.join(pieces).encode("utf-8", "surrogatepass")
    end = into.find(b"]", start)
    asked = into[: start + 1] + numbers + into[end:]
    assert outcome(decode, asked) == outcome(decoder(), asked)
    for known in learnt:
        assert outcome(decode, known) == outcome(decoder(), known)


@settings(max_examples=examples(200), deadline=None)
@given(
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=8),
    rows=st.integers(1, 4),
)
def test_the_numbers_are_those_that_were_sent(numbers, rows):
    decode = decoder(target=DType.FP64)
    outcome(decode, body(json.dumps([0.5] * rows * 2), shape=f"[{rows}, 2]"))
    sent = np.resize(numbers, rows * 2)
    _, call, _ = decode(body(json.dumps(sent.tolist()), shape=f"[{rows}, 2]"))
    assert call.columns["x"].tolist() == sent.reshape(rows, 2).tolist()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (body("[1, 2, 3]"), "3 values"),
        (body("[1]"), "1 values"),
        (body("[1, null]"), "null"),
        (body("[1, NaN]"), "null"),
        (body("[1, Infinity]"), "infinite"),
        (body(after=', "inputs": []'), "'inputs' is given twice"),
        (body(around='"data": [5, 6], '), "'data' is given twice"),
        (body("[1, 1e39]"), "does not fit"),
        (body("[1, 2]", name='"y"'), "no input"),
        (body("[[1], 2]"), ""),
        (body("[1, 2", after=""), "JSON"),
    ],
)
def test_what_is_wrong_is_told_as_to_somebody_new(change, said):
    decode = decoder()
    outcome(decode, body())
    told = outcome(decode, change)
    assert told == outcome(decoder(), change)
    assert said in str(told)


def test_a_missing_number_is_read_between_numbers_that_were_learnt():
    field = Field(name="x", dtype=DType.FP64, shape=(2,), nullable=True)
    decode = Decoder().for_fields([field], [field], OUTPUTS, 4)
    outcome(decode, body())
    for missing in ("NaN", "null"):
        _, call, _ = decode(body(f"[{missing}, 2]"))
        assert np.array_equal(call.columns["x"], [[np.nan, 2]], equal_nan=True)


def test_a_body_with_an_id_of_its_own_is_not_learnt_and_keeps_it():
    decode = decoder()
    for number in range(3):
        call_id, _, _ = decode(body(before=f'"id": "{number}", '))
        assert call_id == str(number)


def test_learning_is_bounded_and_a_model_of_several_inputs_is_read_as_ever():
    decode = decoder(max_rows=400)
    for rows in range(1, 200):
        _, call, _ = decode(body(json.dumps([1] * 2 * rows), shape=f"[{rows}, 2]"))
        assert call.rows == rows
    several = decoder(names=("x", "y"))
    tensors = [{"name": name, "datatype": "FP64", "shape": [1, 2], "data": [1, 2]} for name in "xy"]
    asked = json.dumps({"inputs": tensors}).encode()
    assert outcome(several, asked) == outcome(several, asked)
