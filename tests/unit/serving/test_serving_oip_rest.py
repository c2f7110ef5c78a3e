from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.tiers import examples

from bascule.core.errors import Invalid, TooLarge
from bascule.core.fields import DType, Field
from bascule.serving.protocols.oip_json import Decoder

NUMBERS = [dtype for dtype in DType if dtype.is_float or dtype.is_integer]
INTEGERS = [dtype for dtype in DType if dtype.is_integer]
FLOATS = [dtype for dtype in DType if dtype.is_float]
OUTPUTS = (Field("label", DType.INT64), Field("probabilities", DType.FP32, (2,)))
INFER = "/v2/models/m/infer"


def tensor(name, datatype, shape, data):
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def decode(body, *fields, targets=None, max_rows=1_000):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return Decoder().for_fields(fields, targets or fields, OUTPUTS, max_rows)(body)


def column(field, data, datatype=None, target=None, shape=None):
    """One column of a request with one input, as the program would read it."""
    sent = tensor("x", datatype or field.dtype.value, shape or [len(data)], data)
    targets = (Field("x", target or field.dtype, field.shape),)
    return decode({"inputs": [sent]}, field, targets=targets)[1].columns["x"]


def refusal(body, *fields, **settings_):
    with pytest.raises(Invalid) as refused:
        decode(body, *fields, **settings_)
    return refused.value.message


def column_refusal(field, data, **more):
    with pytest.raises(Invalid) as refused:
        column(field, data, **more)
    return refused.value.message


def x(dtype, **more):
    return Field("x", dtype, **more)


@pytest.fixture(autouse=True)
def no_warning_of_overflow():
    """As in a worker: whether a number fits is what the decoder looks at."""
    with np.errstate(over="ignore"):
        yield


# -- numbers --


@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_integer_type_takes_its_whole_range_and_nothing_beyond(dtype):
    info = np.iinfo(dtype.numpy)
    ends = [int(info.min), int(info.max)]
    made = column(x(dtype), ends)
    assert made.dtype == dtype.numpy
    assert made.tolist() == ends
    for beyond in (ends[0] - 1, ends[1] + 1):
        message = column_refusal(x(dtype), [0, beyond])
        assert message.startswith("inputs[0] (x).data[1]: ")
        assert message.endswith(f"where the model takes whole numbers of {dtype.value}")


@pytest.mark.parametrize("dtype", [DType.FP16, DType.FP32])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_float_type_takes_its_largest_number_and_nothing_beyond(dtype, sign):
    largest = sign * float(np.finfo(dtype.numpy).max)
    made = column(x(dtype), [1.0, largest])
    assert made.dtype == dtype.numpy
    assert made.tolist() == [1.0, largest]
    # Up to half a step beyond, a number rounds to the largest one: see below.
    message = column_refusal(x(dtype), [1.0, largest * 1.001])
    assert message.startswith("inputs[0] (x).data[1]: ")
    assert message.endswith(f"does not fit {dtype.value}")


def test_a_number_that_only_the_program_does_not_take_is_told_what_the_program_takes():
    with pytest.raises(Invalid) as refused:
        column(x(DType.FP64), [1.0, 1e39], target=DType.FP32)
    assert refused.value.message == "inputs[0] (x).data[1]: 1e+39 does not fit FP32"
    assert refused.value.hint == "the model computes in FP32, and its largest number is 3.40282e+38"


def test_many_values_that_are_large_together_are_no_reason_to_refuse():
    largest = float(np.finfo(np.float32).max)
    assert column(x(DType.FP32), [largest] * 100).tolist() == [largest] * 100


def test_double_precision_is_kept_to_the_last_bit():
    values = [0.1, 5e-324, -0.0, 1.7976931348623157e308, 2**53 + 1]
    assert column(x(DType.FP64), values).tolist() == [float(value) for value in values]


@pytest.mark.parametrize("dtype", FLOATS)
def test_whole_numbers_are_taken_for_floats(dtype):
    assert column(x(dtype), [1, -2, 3.5]).tolist() == [1.0, -2.0, 3.5]
    assert column(x(dtype), [1, 2], datatype="UINT8").tolist() == [1.0, 2.0]


@pytest.mark.parametrize("number", ["100000000000000000000", "-100000000000000000000"])
def test_a_large_whole_number_written_in_full_is_a_number(number):
    """JavaScript writes numbers below 1e21 so."""
    body = b'{"inputs":[{"name":"x","datatype":"FP64","shape":[2],"data":[1,%s]}],"id":"a"}'
    made = decode(body % number.encode(), x(DType.FP64))
    assert made[0] == "a"
    assert made[1].columns["x"].tolist() == [1.0, float(number)]
    message = refusal(body.replace(b"FP64", b"INT64") % number.encode(), x(DType.INT64))
    assert message.startswith("inputs[0] (x).data[1]: ")


@pytest.mark.parametrize("dtype", INTEGERS)
def test_a_whole_number_may_have_a_fraction_of_zero_and_no_other(dtype):
    assert column(x(dtype), [3.0, 4]).tolist() == [3, 4]
    assert column_refusal(x(dtype), [3, 3.5]) == (
        f"inputs[0] (x).data[1]: 3.5, where the model takes whole numbers of {dtype.value}"
    )


def test_a_program_that_computes_in_double_precision_gets_integers_so():
    made = column(x(DType.INT8), [1, -2], target=DType.FP64)
    assert (made.dtype, made.tolist()) == (np.float64, [1.0, -2.0])
    assert "data[0]: 300" in column_refusal(x(DType.INT8), [300], target=DType.FP64)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (True, "true"),
        ("1", "a text"),
        ({}, "an object"),
        (None, "is null or NaN, and the model does not take missing values there"),
    ],
)
def test_what_is_no_number_is_named_with_its_place(dtype, value, found):
    message = column_refusal(x(dtype), [1, 2, value])
    assert message.startswith("inputs[0] (x).data[2]")
    assert found in message


@pytest.mark.parametrize("dtype", FLOATS)
def test_null_is_a_missing_number_where_one_may_be_missing(dtype):
    made = column(x(dtype, nullable=True), [1, None])
    assert made[0] == 1
    assert np.isnan(made[1])


@pytest.mark.parametrize("dtype", [DType.FP32, DType.FP64])
def test_nan_is_a_missing_number_on_the_terms_of_null(dtype):
    """Python's clients write it, Triton's for one."""
    body = b'{"inputs":[{"name":"x","datatype":"FP64","shape":[2],"data":[1,NaN]}]}'
    _, call, _ = decode(body, x(dtype, nullable=True))
    assert call.columns["x"][0] == 1
    assert np.isnan(call.columns["x"][1])
    assert refusal(body, x(dtype)) == refusal(body.replace(b"NaN", b"null"), x(dtype))


@pytest.mark.parametrize("number", [b"Infinity", b"-Infinity", b"1e400", b"-1e400"])
def test_what_json_has_no_number_for_is_refused_with_what_to_send(number):
    body = b'{"inputs":[{"name":"x","datatype":"FP64","shape":[1],"data":[%b]}]}' % number
    with pytest.raises(Invalid) as refused:
        decode(body, x(DType.FP64, nullable=True))
    assert "null" in refused.value.hint


# -- text, flags and categories --


@pytest.mark.parametrize("text", ["", "é", "日本", "🚀", "a\x00b", '"\\', "x" * 10_000])
def test_text_arrives_as_it_was_sent(text):
    assert column(x(DType.BYTES), [text]).tolist() == [text]


@pytest.mark.parametrize("text", [rb"\ud800", rb"\udc00\ud800", b"\xff", b"\xed\xa0\x80", b"\n"])
def test_what_is_no_text_is_refused(text):
    body = b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":["%b"]}]}' % text
    assert "not JSON" in refusal(body, x(DType.BYTES))


def test_null_is_a_missing_text_only_where_one_may_be_missing():
    assert column(x(DType.BYTES, nullable=True), ["a", None]).tolist() == ["a", None]
    assert column_refusal(x(DType.BYTES), ["a", None]).startswith("inputs[0] (x).data[1] is null")


def test_flags_are_true_and_false_and_nothing_else():
    assert column(x(DType.BOOL), [True, False]).tolist() == [True, False]
    for value in (2, "true", None):
        assert column_refusal(x(DType.BOOL), [True, value]).startswith("inputs[0] (x).data[1]")
    assert "is null" in column_refusal(x(DType.BOOL, nullable=True), [None])


@pytest.mark.parametrize(
    ("dtype", "known", "other"),
    [
        (DType.BYTES, ("a", "b"), "c"),
        (DType.INT64, (1, 2), 3),
        (DType.INT8, (1, 2), 3),
        (DType.FP64, (1, 2), 3.0),
        (DType.FP32, (1, 2), 1.5),
    ],
)
def test_a_value_that_the_model_does_not_know_is_named_with_those_that_it_knows(
    dtype, known, other
):
    field = x(dtype, categories=known, nullable=dtype in (DType.BYTES, DType.FP64))
    assert column(field, list(known)).tolist() == list(known)
    with pytest.raises(Invalid) as refused:
        column(field, [known[0], other])
    assert refused.value.message == (
        f"inputs[0] (x).data[1]: {str(other)!r} is not a category of the model"
    )
    assert refused.value.hint == f"it knows {known[0]}, {known[1]}"
    if field.nullable:
        assert len(column(field, [known[0], None])) == 2


@pytest.mark.parametrize("target", [DType.FP32, DType.FP64])
@pytest.mark.parametrize(
    ("bounds", "within", "beyond"),
    [
        ((-3e38, 3e38), [3e38, -3e38], [3.1e38, -3.1e38]),
        ((0.0, 10.0), [0.0, 10.0, 1e-300], [-1e-9, 10.5]),
        ((1.0, 5.0), [1.0, 5.0], [0.0, 5.5]),
        ((-1e20, 1e25), [1e25, -1e20], [-2e20, 1e26]),
    ],
)
def test_numbers_beyond_what_the_model_takes_are_refused(target, bounds, within, beyond):
    field = x(DType.FP64, bounds=bounds, nullable=True)
    assert column(field, within, target=target).tolist() == pytest.approx(within)
    assert np.isnan(column(field, [within[0], None], target=target)[1])
    for number in beyond:
        with pytest.raises(Invalid) as refused:
            column(field, [within[0], number], target=target)
        assert refused.value.message == (
            f"inputs[0] (x).data[1]: {number:g} is a number that the model refuses"
        )
        assert refused.value.hint == f"it takes {bounds[0]:g} to {bounds[1]:g}"


@pytest.mark.parametrize("dtype", [DType.INT64, DType.INT8])
def test_whole_numbers_beyond_what_the_model_takes_are_refused(dtype):
    field = x(dtype, bounds=(0, 11))
    assert column(field, [0, 11.0]).tolist() == [0, 11]
    for number in (-1, 12):
        for other in (1, 1.0):  # read quickly, and one by one
            message = column_refusal(field, [other, number])
            assert message.endswith(f"where the model takes whole numbers of {dtype} from 0 to 11")


def test_the_least_number_is_not_taken_for_the_one_below_it_when_both_round_alike():
    body = b'{"inputs":[{"name":"x","datatype":"INT64","shape":[2],"data":[1,%s]}]}'
    assert decode(body % b"-9223372036854775808", x(DType.INT64))[1].columns["x"].tolist() == [
        1,
        -(2**63),
    ]
    for below in (b"-9223372036854775809", b"-9223372036854775809.0"):
        assert "data[1]" in refusal(body % below, x(DType.INT64))


# -- shapes --

MATRIX = Field("x", DType.FP32, (3,))
ONE_TO_SIX = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], ONE_TO_SIX])
def test_a_matrix_may_be_sent_flat_or_nested(data):
    assert column(MATRIX, data, shape=[2, 3]).tolist() == ONE_TO_SIX


@pytest.mark.parametrize(
    "data",
    [
        [[1, 2], [3, 4], [5, 6]],
        [[1, 2, 3, 4], [5, 6]],
        [[1, 2, 3], 4, 5, 6],
        [[[1, 2, 3], [4, 5, 6]]],
        [[1], [2], [3], [4], [5, 6]],
    ],
)
def test_a_matrix_nested_otherwise_than_its_shape_says_is_refused(data):
    assert "nested lists that are not of the declared shape" in column_refusal(
        MATRIX, data, shape=[2, 3]
    )


@pytest.mark.parametrize(
    ("data", "found"), [([1, 2, 3], 3), ([*ONE_TO_SIX, [7, 8, 9]], 9), ([], 0), ([[], []], 0)]
)
def test_a_shape_that_the_data_does_not_fill_is_told_with_both_numbers(data, found):
    assert column_refusal(MATRIX, data, shape=[2, 3]) == (
        f"inputs[0] (x).data: {found} values, where the shape makes 6"
    )


@pytest.mark.parametrize(
    "shape",
    [
        [], [3], [2, 4], [2, 3, 1], [0, 3], [-1, 3], [2.0, 3], ["2", 3], [True, 3], [None, 3],
        [[2], 3], [10**18, 3], [{}, 3],
    ],
)  # fmt: skip
def test_a_shape_that_is_not_the_models_is_refused(shape):
    message = column_refusal(MATRIX, [1.0] * 6, shape=shape or [[]])
    assert message.startswith(
        ("inputs[0] (x).shape: ", "inputs[0] (x).data: ", f"{10**18} rows are over")
    )


def test_a_column_may_be_a_matrix_of_one_column():
    for data in ([1, 2], [[1], [2]]):
        assert column(x(DType.FP32), data, shape=[2, 1]).tolist() == [1, 2]
    assert column(x(DType.BYTES), [["a"], ["b"]], shape=[2, 1]).tolist() == ["a", "b"]


@pytest.mark.parametrize("data", [[[[1]], [[2]]], [[1, 2], []], [[1, 2]]])
@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_a_column_nested_otherwise_is_refused(data, shape):
    assert "nested lists" in column_refusal(x(DType.FP32), data, shape=shape)


def test_columns_of_different_length_are_refused():
    body = {"inputs": [tensor("a", "FP32", [2], [1, 2]), tensor("b", "FP32", [3], [1, 2, 3])]}
    assert refusal(body, Field("a", DType.FP32), Field("b", DType.FP32)) == (
        "inputs[1] (b).shape: 3 rows, where the inputs before it have 2"
    )


@pytest.mark.parametrize("rows", [5, 6])
def test_rows_are_bounded(rows):
    body = {"inputs": [tensor("x", "FP32", [rows], [1.0] * rows)]}
    if rows == 5:
        assert decode(body, x(DType.FP32), max_rows=5)[1].rows == 5
        return
    with pytest.raises(TooLarge, match="6 rows are over the limit of 5"):
        decode(body, x(DType.FP32), max_rows=5)


OPEN = Field("x", DType.FP32, (-1, 2))


@pytest.mark.parametrize("length", [1, 3])
def test_a_length_that_may_vary_is_that_of_the_request(length):
    values = np.arange(2.0 * length * 2).reshape(2, length, 2)
    for data in (values.tolist(), values.ravel().tolist()):
        made = column(OPEN, data, shape=[2, length, 2])
        np.testing.assert_array_equal(made, values)


@pytest.mark.parametrize("shape", [[2, 2], [2, 0, 2], [2, -1, 2], [2, 1, 3], [2, 1, 2, 1], [2]])
def test_a_length_that_may_vary_is_still_one_of_the_model(shape):
    message = column_refusal(OPEN, [1.0] * 4, shape=shape)
    assert message.startswith("inputs[0] (x).shape: ")
    assert message.endswith("is not [rows, any, 2] with one row or more")


def test_an_answer_of_varying_length_tells_its_own(serve_models, program, inline, monkeypatch):
    program.inputs = (Field("x", DType.FP64, (-1,)),)
    monkeypatch.setattr(type(program), "outputs", (Field("twice", DType.FP64, (-1,)),))
    monkeypatch.setattr(program, "run", lambda columns, outputs=None: {"twice": columns["x"] * 2})
    server = serve_models(("m", program, inline))
    with server.client() as client:
        body = {"inputs": [tensor("x", "FP64", [1, 3], [1, 2, 3])]}
        (output,) = client.request("POST", INFER, body).answer().json["outputs"]
    assert (output["shape"], output["data"]) == ([1, 3], [2, 4, 6])


# -- the whole request --


def test_inputs_may_come_in_any_order():
    body = {"inputs": [tensor("b", "FP32", [1], [2]), tensor("a", "FP32", [1], [1])]}
    _, (columns, rows, *_), _ = decode(body, Field("a", DType.FP32), Field("b", DType.FP32))
    assert ({name: array.tolist() for name, array in columns.items()}, rows) == (
        {"a": [1], "b": [2]},
        1,
    )


GOOD = tensor("x", "FP32", [1], [1])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty"),
        (b"  ", "the body is empty"),
        (b"{", "the body is not JSON"),
        (b"{} {}", "the body is not JSON"),
        (b"inputs=1", "the body is not JSON"),
        ([], "the body is not a JSON object"),
        ("x", "the body is not a JSON object"),
        ({}, "inputs: missing, or not a list"),
        ({"inputs": {}}, "inputs: missing, or not a list"),
        ({"inputs": []}, "inputs: 'x' missing"),
        ({"inputs": [[]]}, "inputs[0] is not an object"),
        ({"inputs": [{}]}, "inputs[0].name: missing, or not a text"),
        ({"inputs": [{**GOOD, "name": 1}]}, "inputs[0].name: missing, or not a text"),
        ({"inputs": [{**GOOD, "name": "y"}]}, "inputs[0].name: the model has no input 'y'"),
        ({"inputs": [GOOD, GOOD]}, "inputs[1]: 'x' is given twice"),
        ({"inputs": [{**GOOD, "datatype": "FP31"}]}, "inputs[0] (x).datatype: 'FP31' is no"),
        ({"inputs": [{**GOOD, "datatype": None}]}, "inputs[0] (x).datatype: missing, or not"),
        ({"inputs": [{**GOOD, "datatype": []}]}, "inputs[0] (x).datatype: missing, or not"),
        ({"inputs": [{**GOOD, "datatype": "BYTES"}]}, "inputs[0] (x).datatype: BYTES, where"),
        ({"inputs": [{**GOOD, "shape": 1}]}, "inputs[0] (x).shape: missing, or not a list"),
        ({"inputs": [{**GOOD, "data": 1}]}, "inputs[0] (x).data: missing, or not a list"),
        ({"inputs": [{**GOOD, "data": {"0": 1}}]}, "inputs[0] (x).data: missing, or not a list"),
        ({"inputs": [GOOD], "id": 4}, "id: not a text"),
        ({"inputs": [GOOD], "outputs": {}}, "outputs: not a list"),
        ({"inputs": [GOOD], "outputs": ["label"]}, "outputs[0].name: missing, or not a text"),
        ({"inputs": [GOOD], "outputs": [{}]}, "outputs[0].name: missing, or not a text"),
        (
            {"inputs": [GOOD], "outputs": [{"name": "label"}, {"name": "y"}]},
            "outputs[1].name: the model has no output 'y'",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(body, message):
    assert refusal(body, x(DType.FP32)).startswith(message)


@pytest.mark.parametrize("depth", [10, 900, 1_010, 5_000, 200_000])
@pytest.mark.parametrize(
    "body",
    [
        b"%b",
        b'{"inputs":%b}',
        b'{"inputs":[%b]}',
        b'{"inputs":[{"name":%b}]}',
        b'{"inputs":[{"name":"x","datatype":%b}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":%b,"data":[1]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[%b],"data":[1]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":%b}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[true,%b]}]}',
    ],
)
@pytest.mark.parametrize("bomb", [b"[", b'{"a":'])
def test_nesting_bombs_are_refused_like_anything_else(body, depth, bomb):
    inner = bomb * depth + b"0" + (b"]" if bomb == b"[" else b"}") * depth
    assert refusal(body % inner, x(DType.FP32))


def test_a_bad_body_leaves_nothing_behind_for_the_next_good_one():
    """The parser is shared by all requests."""
    run = Decoder().for_fields((x(DType.FP32),), (x(DType.FP32),), OUTPUTS, 10)
    good = json.dumps({"inputs": [GOOD]}).encode()
    kept = []
    for bad in (b"{", b"[" * 5_000, b'{"inputs":[true]}', b"-9223372036854775809", good[:-2]):
        for _ in range(2):
            with pytest.raises(Invalid) as refused:
                run(bad)
            kept.append(refused)
            assert run(good)[1].rows == 1


def test_the_outputs_asked_for_are_a_list_without_repetition_in_that_order():
    def wanted(*names):
        outputs = [{"name": name} for name in names]
        return decode({"inputs": [GOOD], "outputs": outputs}, x(DType.FP32))[1].outputs

    assert wanted() is None
    assert wanted("label") == ("label",)
    assert wanted("probabilities", "label") == ("probabilities", "label")
    assert wanted("label", "probabilities", "label") == ("label", "probabilities")


# -- anything at all --

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=5)
    | st.sampled_from(["x", "t", "FP32", "BYTES", "label", 1, 2, 2.0, -1]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "datatype", "shape", "data", "inputs", "outputs", "id"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
VALID = {
    "id": "a",
    "inputs": [
        tensor("x", "FP32", [2, 2], [[1.5, 2], [3, None]]),
        tensor("t", "BYTES", [2], ["a", None]),
        tensor("n", "INT8", [2], [1, 2]),
        tensor("b", "BOOL", [2, 1], [[True], [False]]),
    ],
    "outputs": [{"name": "label"}],
    "parameters": {},
}
FIELDS = (
    Field("x", DType.FP32, (2,), nullable=True),
    Field("t", DType.BYTES, nullable=True, categories=("a", "b")),
    Field("n", DType.INT8, categories=(1, 2)),
    Field("b", DType.BOOL),
)


def places(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


PLACES = list(places(VALID))
RUN = Decoder().for_fields(FIELDS, FIELDS, OUTPUTS, 10)


@settings(
    max_examples=examples(600),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(PLACES), ANY_JSON)
def test_any_value_in_any_place_is_taken_or_refused(path, value):
    body = copy.deepcopy(VALID)
    if path:
        inside = body
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = value
    else:
        body = value
    try:
        call_id, (columns, rows, *_), _ = RUN(json.dumps(body).encode())
    except Invalid as refused:
        refused.message.encode()
        return
    assert call_id is None or isinstance(call_id, str)
    assert set(columns) == {field.name for field in FIELDS}
    for field in FIELDS:
        array = columns[field.name]
        assert array.shape == (rows, *field.shape)
        assert array.dtype == field.dtype.numpy


@settings(
    max_examples=examples(300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_damaged_body_is_taken_or_refused(data):
    body = bytearray(json.dumps(VALID).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    try:
        RUN(bytes(body))
    except Invalid as refused:
        refused.message.encode()


# -- answers --


def test_an_answer_carries_the_model_its_version_the_id_and_typed_tensors(
    serve_models, program, inline, ask
):
    server = serve_models(("m", program, inline))
    with server.client() as client:
        answer = client.request("POST", INFER, ask([1, 2], [3, 4], id="é\x00")).answer()
    assert answer.status == 200
    assert answer.json == {
        "model_name": "m",
        "model_version": "1",
        "parameters": {"program": "fake"},
        "id": "é\x00",
        "outputs": [
            tensor("twice", "FP64", [2, 2], [2, 4, 6, 8]),
            tensor("sum", "FP64", [2], [3, 7]),
        ],
    }


def test_only_the_outputs_asked_for_are_answered_in_that_order(
    serve_models, program, inline, thread, ask
):
    server = serve_models(("m", program, inline), ("slow", program, thread))
    with server.client() as client:
        for model in ("m", "slow"):
            for names in (["sum"], ["sum", "twice"]):
                body = ask([1, 2], outputs=[{"name": name} for name in names])
                answer = client.request("POST", f"/v2/models/{model}/infer", body).answer()
                assert [output["name"] for output in answer.json["outputs"]] == names


@pytest.mark.parametrize("given_id", [{}, {"id": None}])
def test_an_id_is_made_where_none_was_given_and_never_twice(
    serve_models, program, inline, ask, given_id
):
    server = serve_models(("m", program, inline))
    with server.client() as client:
        ids = [
            client.request("POST", INFER, ask([1, 2], **given_id)).answer().json["id"]
            for _ in range(50)
        ]
    assert len(set(ids)) == 50
    assert all(isinstance(one, str) and one for one in ids)


def test_the_first_version_named_is_the_default_and_each_has_its_own_path(
    serve_models, program, inline, ask
):
    server = serve_models(("m/2", program, inline), ("m/1", program, inline))
    with server.client() as client:
        for path, version in [("", "2"), ("/versions/1", "1"), ("/versions/2", "2")]:
            answer = client.request("POST", f"/v2/models/m{path}/infer", ask([1, 2])).answer()
            assert answer.json["model_version"] == version
            metadata = client.request("GET", f"/v2/models/m{path}").answer().json
            assert metadata["versions"] == ["2", "1"]


def test_metadata_says_what_a_request_needs(serve_models, program, inline):
    server = serve_models(("m", program, inline))
    with server.client() as client:
        answer = client.request("GET", "/v2/models/m").answer()
    assert answer.json["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}]
    assert [output["shape"] for output in answer.json["outputs"]] == [[-1, 2], [-1]]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/v2/models/other", "no model 'other' here; served are: m"),
        ("/v2/models/other/infer", "no model 'other' here; served are: m"),
        ("/v2/models/m/versions/9/infer", "no version '9' of 'm' here; served are: 1"),
        ("/v2/models/m/explain", "no such path; GET /v2 describes the server"),
        ("/v3/models/m", "no such path; GET /v2 describes the server"),
    ],
)
def test_a_path_that_names_nothing_says_which_part(serve_models, program, inline, path, error):
    server = serve_models(("m", program, inline))
    with server.client() as client:
        answer = client.request("GET", path).answer()
    assert (answer.status, answer.json) == (404, {"error": error})


def test_health_always_has_a_body_and_is_not_ready_while_the_server_stops(
    serve_models, program, inline
):
    server = serve_models(("m", program, inline))
    paths = ["/v2/health/live", "/v2/health/ready", "/v2/models/m/ready"]
    with server.client() as client:
        for path in paths:
            answer = client.request("GET", path).answer()
            assert (answer.status, answer.json["live"], answer.json["ready"]) == (200, True, True)
    server.on_loop(lambda: setattr(server.site, "draining", True))
    for path, status in zip(paths, [200, 503, 503], strict=True):
        with server.client() as client:
            answer = client.request("GET", path).answer()
            assert (answer.status, answer.json["ready"]) == (status, False)
            assert answer.headers["connection"] == "close"
            assert answer.headers.get("retry-after") == ("1" if status == 503 else None)


@pytest.mark.parametrize(("encoding", "status"), [("identity", 200), ("br", 400)])
def test_a_compressed_body_is_refused_by_name(serve_models, program, inline, ask, encoding, status):
    server = serve_models(("m", program, inline))
    with server.client() as client:
        headers = f"Content-Encoding: {encoding}\r\n"
        answer = client.request("POST", INFER, ask([1, 2]), headers).answer()
    assert answer.status == status
    assert encoding == "identity" or "'br'" in answer.json["error"]


def test_bad_requests_are_counted_for_their_model_and_good_rows_once(
    serve_models, program, inline, ask
):
    server = serve_models(("m", program, inline))
    with server.client() as client:
        client.request("POST", INFER, ask([1, 2], [3, 4])).answer()
        client.request("POST", INFER, b"{").answer()
        client.request("GET", INFER).answer()
        client.request("GET", "/nowhere").answer()
    other, model = server.totals()
    assert (model.by_status, model.rows) == ({200: 1, 400: 1}, 2)
    assert other.by_status == {404: 1, 405: 1}


@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(["name", "datatype", "shape", "data"]), ANY_JSON)
def test_any_value_is_answered_200_or_400_in_the_one_shape(always_on, key, value):
    client, good = always_on
    body = copy.deepcopy(good)
    body["inputs"][0][key] = value
    answer = client.request("POST", INFER, body).answer()
    assert answer.status in (200, 400)
    if answer.status == 400:
        assert list(answer.json) == ["error"]


@pytest.fixture
def always_on(serve_models, program, inline, ask):
    server = serve_models(("m", program, inline))
    with server.client() as client:
        yield client, ask([1, 2])


TWICE = b'{"name":"x","datatype":"FP32","shape":[1],"data":[1]%b}'


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"inputs":[%b],"inputs":[]}' % (TWICE % b""), "the body: 'inputs'"),
        (b'{"id":"1","inputs":[%b],"id":"2"}' % (TWICE % b""), "the body: 'id'"),
        (b'{"inputs":[%b],"a":1,"a":1}' % (TWICE % b""), "the body: 'a'"),
        (b'{"inputs":[%b]}' % (TWICE % b',"data":[2]'), "inputs[0] (x): 'data'"),
        (b'{"inputs":[%b]}' % (TWICE % b',"name":"y"'), "inputs[0] (x): 'name'"),
        (
            b'{"inputs":[%b],"outputs":[{"name":"label","name":"probabilities"}]}' % (TWICE % b""),
            "outputs[0]: 'name'",
        ),
        (
            b'{"inputs":[%b],"outputs":[{"name":"label","parameters":'
            b'{"binary_data":true,"binary_data":false}}]}' % (TWICE % b""),
            "outputs[0].parameters: 'binary_data'",
        ),
        (
            b'{"inputs":[%b],"parameters":{"confidence":null,"confidence":0.9}}' % (TWICE % b""),
            "parameters: 'confidence'",
        ),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_its_place(body, told):
    assert refusal(body, x(DType.FP32)) == f"{told} is given twice"


# -- numbers as clients write them --


@pytest.mark.parametrize(
    ("dtype", "rounded", "beyond"),
    [
        (DType.FP32, 3.4028235e38, 3.4028235677973366e38),
        (DType.FP32, 3.4028235677973362e38, 3.403e38),
        (DType.FP16, 65519.99, 65520.0),
    ],
)
def test_a_number_that_rounds_to_the_largest_of_a_type_fits_it_and_the_next_does_not(
    dtype, rounded, beyond
):
    largest = float(np.finfo(dtype.numpy).max)

    assert column(x(dtype), [rounded]).tolist() == [largest]
    assert column(x(dtype), [1.0, -rounded]).tolist() == [1.0, -largest]
    for number in (beyond, -beyond):
        assert f"does not fit {dtype.value}" in column_refusal(x(dtype), [number])


def test_truths_may_be_0_and_1():
    assert column(x(DType.BOOL), [0, 1, True, 1.0]).tolist() == [False, True, True, True]
    nullable = x(DType.BOOL, nullable=True)
    assert column(nullable, [None, 0], target=DType.BYTES).tolist() == [None, False]
    for number in (2, -1, 0.5):
        assert "where the model takes true or false" in column_refusal(x(DType.BOOL), [1, number])
