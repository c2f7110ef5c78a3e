"""Rows in the forms of other protocols: what comes out, and how a mistake is named."""

from __future__ import annotations

import base64
import time
import tracemalloc

import numpy as np
import pytest

from bascule.core.errors import Invalid, TooLarge
from bascule.core.fields import DType, Field, Signature
from bascule.serving.codecs.json_tables import TableReader

TABLE = (
    Field("hour", DType.INT64),
    Field("carrier", DType.BYTES, nullable=True, categories=("AA", "BB")),
    Field("wind", DType.FP32, nullable=True),
    Field("rain", DType.BOOL),
)
ROW = {"hour": 17, "carrier": "AA", "wind": 0.5, "rain": True}
OTHER = {"hour": 3, "carrier": None, "wind": None, "rain": False}
LISTS = [list(ROW.values()), list(OTHER.values())]
COLUMNS = {name: [ROW[name], OTHER[name]] for name in ROW}


def reader(*fields, columns=(), max_rows=10):
    return TableReader(Signature(fields, (), columns), fields, max_rows)


TABLE_READER = reader(*TABLE)
MATRIX = reader(Field("input", DType.FP64, (3,)))
NAMED = reader(Field("input", DType.FP64, (3,), nullable=True), columns=("a", "b", "c"))
ONE = reader(Field("x", DType.INT8))
IMAGES = reader(Field("image", DType.UINT8, (2, 2)), Field("n", DType.FP32))
OPEN = reader(Field("words", DType.BYTES, (-1,)))


def plain(table):
    columns, rows = table
    assert all(len(array) == rows for array in columns.values())
    return {
        name: [None if value != value else value for value in array.tolist()]
        if array.ndim == 1
        else array.tolist()
        for name, array in columns.items()
    }


def refusal(read, *arguments, **more):
    with pytest.raises(Invalid) as refused:
        read(*arguments, **more)
    return refused.value.message


def test_booleans_of_which_some_are_missing_are_numbers_and_are_sent_as_booleans():
    field = Field("rain", DType.FP64, nullable=True, booleans=True)
    rows = [{"rain": value} for value in (True, None, False, 1, 0.0)]
    columns, _ = reader(field).rows(rows, "i")
    np.testing.assert_array_equal(columns["rain"], [1, np.nan, 0, 1, 0])
    with pytest.raises(Invalid, match="a text, where the model takes"):
        reader(field).rows([{"rain": "true"}], "i")
    columns, _ = reader(field, Field("wind", DType.FP64)).csv(b"True,1\n,2\nfalse,3\n0,4\n")
    np.testing.assert_array_equal(columns["rain"], [1, np.nan, 0, 0])
    number = Field("wind", DType.FP64, nullable=True)
    assert "true, where the model takes numbers" in refusal(
        reader(number).rows, [{"wind": True}], "i"
    )


# -- forms --


@pytest.mark.parametrize(
    "table",
    [
        TABLE_READER.rows([ROW, OTHER], "instances"),
        TABLE_READER.rows(LISTS, "instances"),
        TABLE_READER.rows([dict(reversed(ROW.items())), OTHER], "instances"),
        TABLE_READER.columns(COLUMNS, "inputs"),
        TABLE_READER.columns({name: [[v] for v in vs] for name, vs in COLUMNS.items()}, "inputs"),
        TABLE_READER.split({"columns": list(ROW), "index": [7, 8], "data": LISTS}, "split"),
        TABLE_READER.split({"data": LISTS}, "split"),
        TABLE_READER.split(
            {"columns": list(ROW)[::-1], "data": [row[::-1] for row in LISTS]}, "split"
        ),
        TABLE_READER.csv(b"hour,carrier,wind,rain\n17,AA,0.5,True\n3,,,false\n"),
        TABLE_READER.csv(b"\xef\xbb\xbfrain,wind,carrier,hour\r\nTRUE,5e-1,AA,17.0\r\nFalse,,,3"),
        TABLE_READER.csv(b"17,AA,.5,True\n\n3,,,False\n"),
        TABLE_READER.csv(b"17,AA,.5,True\n3,,,False", has_header=False),
    ],
)
def test_a_table_is_the_same_in_every_form(table):
    assert plain(table) == COLUMNS
    assert [array.dtype for array in table[0].values()] == [f.dtype.numpy for f in TABLE]


NUMBERS = [[1, 2.5, -3], [4, 5, 6]]
RECORDS = [dict(zip("abc", row, strict=True)) for row in NUMBERS]


@pytest.mark.parametrize(
    "table",
    [
        MATRIX.rows(NUMBERS, "instances"),
        MATRIX.rows([{"input": row} for row in NUMBERS], "instances"),
        MATRIX.rows([{"2": row[2], "0": row[0], "1": row[1]} for row in NUMBERS], "instances"),
        MATRIX.columns({"input": NUMBERS}, "inputs"),
        MATRIX.columns(NUMBERS, "inputs"),
        MATRIX.split({"columns": [0, 1, 2], "data": NUMBERS}, "split"),
        MATRIX.split({"columns": ["2", "1", "0"], "data": [r[::-1] for r in NUMBERS]}, "split"),
        MATRIX.csv(b"0,1,2\n1,2.5,-3\n4,5,6\n"),
        MATRIX.csv(b"1,2.5,-3\n4,5,6\n"),
        NAMED.rows(NUMBERS, "instances"),
        NAMED.rows(RECORDS, "instances"),
        NAMED.columns({"c": [-3, 6], "a": [1, 4], "b": [2.5, 5]}, "inputs"),
        NAMED.columns({"input": NUMBERS}, "inputs"),
        NAMED.split({"columns": ["c", "b", "a"], "data": [r[::-1] for r in NUMBERS]}, "split"),
        NAMED.csv(b"c,b,a\n-3,2.5,1\n6,5,4\n"),
    ],
)
def test_a_matrix_is_the_same_in_every_form(table):
    assert plain(table) == {"input": NUMBERS}


def test_a_line_of_numbers_from_zero_is_a_header_only_where_it_is_all_of_the_names():
    assert MATRIX.csv(b"0,1,2\n3,4,5\n")[1] == 1
    assert MATRIX.csv(b"0,1,2\n3,4,5\n", has_header=False)[1] == 2
    assert MATRIX.csv(b"0,1,3\n3,4,5\n")[1] == 2


def test_the_only_column_needs_no_name():
    for table in (
        ONE.rows([1, 2], "instances"),
        ONE.rows([[1], [2]], "instances"),
        ONE.rows([{"x": 1}, {"x": 2}], "instances"),
        ONE.columns([1, 2], "inputs"),
        ONE.columns({"x": [1, 2]}, "inputs"),
        ONE.csv(b"x\n1\n2\n"),
        ONE.csv(b"1\n2\n"),
    ):
        assert plain(table) == {"x": [1, 2]}


def test_a_row_may_have_tensors():
    image = [[1, 2], [3, 4]]
    for table in (
        IMAGES.rows([{"image": image, "n": 1}] * 2, "instances"),
        IMAGES.rows([[image, 1]] * 2, "instances"),
        IMAGES.columns({"image": [image] * 2, "n": [1, 1]}, "inputs"),
    ):
        assert plain(table) == {"image": [image] * 2, "n": [1, 1]}


def test_a_length_that_may_vary_is_that_of_the_first_row():
    assert plain(OPEN.rows([["a", "b"], ["c", "d"]], "i")) == {"words": [["a", "b"], ["c", "d"]]}
    assert refusal(OPEN.rows, [["a", "b"], ["c"]], "i") == (
        "i[1]: 1 values, where the model takes 2"
    )
    for bad in ([[]], [5], [{}]):
        assert refusal(OPEN.rows, bad, "i").startswith("i[0]")


def test_base64_stands_for_text():
    def packed(text):
        return {"b64": base64.b64encode(text.encode()).decode()}

    texts = reader(Field("t", DType.BYTES, nullable=True))
    assert plain(texts.rows([packed("é"), "b", None], "i")) == {"t": ["é", "b", None]}
    assert plain(texts.columns({"t": [packed("")]}, "i")) == {"t": [""]}
    assert plain(OPEN.rows([[packed("a"), "b"]], "i")) == {"words": [["a", "b"]]}
    for bad in ("?", "/w==", 1, None, "YQ", "Y Q=="):
        told = refusal(texts.rows, ["a", {"b64": bad}], "i")
        assert told == "i[1].b64: not text in UTF-8, in base64"
    assert refusal(ONE.rows, [packed("1")], "i") == (
        "i[0]: an object, where the model takes whole numbers of INT8"
    )
    assert "an object" in refusal(texts.rows, [{"t": {"b64": "YQ==", "more": 1}}], "i")


@pytest.mark.parametrize("rows", [10, 11])
def test_rows_are_bounded(rows):
    for read, value in (
        (lambda v: ONE.rows(v, "i"), [1] * rows),
        (lambda v: ONE.columns({"x": v}, "i"), [1] * rows),
        (lambda v: ONE.split({"data": v}, "i"), [[1]] * rows),
        (ONE.csv, b"1\n" * rows),
    ):
        if rows == 10:
            assert read(value)[1] == 10
        else:
            with pytest.raises(TooLarge, match="11 rows are over the limit of 10"):
                read(value)


@pytest.mark.parametrize("body", [b"1\n" * 4_000_000, b"\n" * 8_000_000], ids=["rows", "empty"])
def test_rows_of_csv_are_counted_before_they_are_made(body):
    tracemalloc.start()
    started_s = time.process_time()
    try:
        with pytest.raises(TooLarge):
            ONE.csv(body)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - started_s < 0.1
    assert peak_bytes < 1 << 20


def test_csv_of_more_rows_than_are_made_at_a_time_keeps_their_order_and_places():
    rows = 5_000
    read = reader(Field("x", DType.FP64), Field("t", DType.BYTES), max_rows=rows + 1).csv
    body = b"".join(b"%d,t%d\n" % (row, row) for row in range(rows))
    columns, found = read(body)
    assert found == rows
    assert columns["x"].tolist() == list(range(rows))
    assert columns["t"].tolist() == [f"t{row}" for row in range(rows)]
    assert refusal(read, body + b"1\n") == "csv[5000]: 1 values, where a row has 2"
    assert refusal(read, body + b"a,b\n").startswith("csv[5000] (x): a text")


# -- mistakes --


def changed(**values):
    return [ROW, {**ROW, **values}]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "i: missing, or not a list"),
        ({}, "i: missing, or not a list"),
        ("x", "i: missing, or not a list"),
        ([], "i: no rows"),
        ([ROW, 1], "i[1]: not an object, where the rows before it are"),
        ([ROW, {}], "i[1]: 'hour' missing"),
        ([{}], "i[0]: 'hour' missing"),
        ([1], "i[0]: not a list, where a row is 4 values"),
        ([[1, 2]], "i[0]: 2 values, where a row has 4"),
        ([LISTS[0], ROW], "i[1]: not a list, where a row is 4 values"),
        (changed(foo=1), "i[1].foo: the model has no input 'foo'"),
        (changed(hour=2.5), "i[1].hour: 2.5, where the model takes whole numbers of INT64"),
        (changed(hour="3"), "i[1].hour: a text, where the model takes whole numbers of INT64"),
        (
            changed(hour=None),
            "i[1].hour is null or NaN, and the model does not take missing values",
        ),
        (changed(hour=True), "i[1].hour: true, where"),
        (changed(hour=2**63), "i[1].hour: 9223372036854775808, where"),
        (changed(hour=[1, 2]), "i[1].hour: a list, where"),
        (changed(hour=[[1]]), "i[1].hour: a list, where"),
        (changed(wind=1e39), "i[1].wind: 1e+39 does not fit FP32"),
        (changed(wind=False), "i[1].wind: false, where the model takes numbers"),
        (changed(carrier="CC"), "i[1].carrier: 'CC' is not a category of the model"),
        (changed(carrier=1), "i[1].carrier: 1, where the model takes text"),
        (changed(rain=2), "i[1].rain: 2, where the model takes true or false"),
        (changed(rain=None), "i[1].rain is null"),
        ([LISTS[0], [1, "AA", "?", True]], "i[1] (wind): a text, where the model takes numbers"),
    ],
)
def test_a_mistake_in_rows_is_named_with_its_place(value, told):
    assert refusal(TABLE_READER.rows, value, "i").startswith(told)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([[1, 2, 3], [4, 5]], "i[1]: 2 values, where the model takes 3"),
        ([[1, 2, 3], 4], "i[1]: not a list, where the model takes 3 values"),
        ([[1, 2, 3], [4, [5], 6]], "i[1][1]: a list, where the model takes numbers"),
        ([[1, 2], [[3], 4, 5, 6]], "i[0]: 2 values, where the model takes 3"),
        ([[1, 2, 3], [4, "5", 6]], "i[1][1]: a text, where the model takes numbers"),
        ([[1, 2, 3], [4, None, 6]], "i[1][1] is null"),
        ([{"input": [1, 2]}], "i[0].input: 2 values, where the model takes 3"),
        ([{"0": 1, "1": "x", "2": 3}], "i[0].1: a text, where the model takes numbers"),
        ([{"a": 1}], "i[0].a: the model has no input 'a'"),
        ([1, 2, 3], "i[0]: not a list, where the model takes 3 values"),
    ],
)
def test_a_mistake_in_a_matrix_is_named_with_its_place(value, told):
    assert refusal(MATRIX.rows, value, "i").startswith(told)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (5, "i: not an object"),
        ([1], "i: not an object"),
        ({}, "i: 'hour' missing"),
        ({**COLUMNS, "foo": [1, 2]}, "i.foo: the model has no input 'foo'"),
        ({**COLUMNS, "wind": 5}, "i.wind: missing, or not a list"),
        ({**COLUMNS, "wind": []}, "i.wind: no rows"),
        ({**COLUMNS, "wind": [1]}, "i.wind: 1 rows, where hour has 2"),
        ({**COLUMNS, "wind": [1, "x"]}, "i.wind[1]: a text, where the model takes numbers"),
    ],
)
def test_a_mistake_in_columns_is_named_with_its_place(value, told):
    assert refusal(TABLE_READER.columns, value, "i").startswith(told)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (LISTS, "i: not an object"),
        ({"columns": list(ROW)}, "i.data: missing, or not a list"),
        ({"columns": "x", "data": LISTS}, "i.columns: not a list of names"),
        ({"columns": [None], "data": LISTS}, "i.columns: not a list of names"),
        ({"columns": ["hour"], "data": LISTS}, "i.columns: 'carrier' missing"),
        ({"columns": [*ROW, "foo"], "data": LISTS}, "i.columns: the model has no input 'foo'"),
        ({"columns": [*ROW, "hour"], "data": LISTS}, "i.columns: 'hour' is given twice"),
        ({"columns": list(ROW), "data": LISTS, "x": 1}, "i.x: there is no such part"),
        ({"data": [LISTS[0], LISTS[1][1:]]}, "i.data[1]: 3 values, where a row has 4"),
        ({"data": [LISTS[0], [1.5, "AA", 0, True]]}, "i.data[1] (hour): 1.5, where the model"),
    ],
)
def test_a_mistake_in_a_frame_is_named_with_its_place(value, told):
    assert refusal(TABLE_READER.split, value, "i").startswith(told)


HEADER = b"hour,carrier,wind,rain\n"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "csv: no rows"),
        (HEADER, "csv: no rows"),
        (b"\xff", "the body is not CSV in UTF-8"),
        (b'1,"AA', "the body is not CSV in UTF-8"),
        (b"x" * 200_000, "the body is not CSV in UTF-8"),
        (b"hour,carrier,wind\n1,AA,2\n", "csv header: 'rain' missing"),
        (b"hour,carrier,wind,rain,x\n1,AA,2,True,1\n", "csv header: the model has no input 'x'"),
        (HEADER + b"1,AA,2\n", "csv[0]: 3 values, where a row has 4"),
        (HEADER + b"1,AA,2,True\nx,AA,2,True\n", "csv[1] (hour): a text, where the model takes"),
        (HEADER + b",AA,2,True\n", "csv[0] (hour) is null"),
        (HEADER + b"1,AA,inf,True\n", "csv[0] (wind) is infinite, where the model takes numbers"),
        (HEADER + b"1,AA,1e999,True\n", "csv[0] (wind) is infinite"),
        (HEADER + b"1,AA,1_0,True\n", "csv[0] (wind): a text"),
        (HEADER + b"1,AA,\xd9\xa1,True\n", "csv[0] (wind)"),
        (HEADER + b"9" * 5_000 + b",AA,1,True\n", "csv[0] (hour): a text"),
        (HEADER + b"1,AA,1,yes\n", "csv[0] (rain): a text, where the model takes true or false"),
        (HEADER + b"1,CC,1,True\n", "csv[0] (carrier): 'CC' is not a category"),
    ],
)
def test_a_mistake_in_csv_is_named_with_its_place(body, told):
    assert refusal(TABLE_READER.csv, body).startswith(told)


@pytest.mark.parametrize("has_header", [True, False, None])
def test_csv_of_nothing_is_refused_whatever_is_said_of_its_header(has_header):
    for body in (b"", b"\n", b"\r\n\r\n"):
        assert refusal(TABLE_READER.csv, body, has_header=has_header) == "csv: no rows"


def test_a_header_that_was_announced_is_one_even_if_it_names_nothing():
    assert refusal(TABLE_READER.csv, b"17,AA,.5,True\n", has_header=True) == (
        "csv header: the model has no input '17'"
    )


def test_whole_numbers_of_csv_keep_all_of_their_digits():
    read = reader(Field("n", DType.UINT64)).csv
    assert plain(read(b"18446744073709551615\n")) == {"n": [2**64 - 1]}
    assert refusal(read, b"18446744073709551616\n").startswith("csv[0] (n)")


def test_what_is_read_is_of_the_type_of_the_program():
    fields, targets = (Field("n", DType.INT8),), (Field("n", DType.FP64),)
    columns, _ = TableReader(Signature(fields, ()), targets, 5).rows([1, 2], "i")
    assert columns["n"].dtype == np.float64


@pytest.mark.parametrize("written", ["nan", "NaN", " NAN ", ""])
def test_a_missing_number_of_csv_is_empty_or_nan(written):
    columns, _ = TABLE_READER.csv(f"hour,carrier,wind,rain\n1,AA,{written},1\n".encode())

    assert np.isnan(columns["wind"]).all()
    assert columns["rain"].tolist() == [True]


@pytest.mark.parametrize("written", ["inf", "-Infinity", "1e999"])
def test_infinity_has_no_place_in_csv(written):
    body = f"hour,carrier,wind,rain\n1,AA,{written},1\n".encode()

    assert refusal(TABLE_READER.csv, body).startswith("csv[0] (wind) is infinite, where")
