"""Arrays in numpy's own format: what is read and written, and what is refused before it is read."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest

from bascule.core.errors import Invalid, ModelFailed, TooLarge
from bascule.core.fields import DType, Field, Signature
from bascule.serving.codecs.json_tables import TableReader
from bascule.serving.codecs.npy import read_npy, write_npy

MATRIX = Signature((Field("x", DType.FP64, (2,)),), ())
TABLE = Signature(
    (
        Field("hour", DType.INT64),
        Field("wind", DType.FP32, nullable=True),
        Field("rain", DType.BOOL),
    ),
    (),
)


def saved(array, **how):
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


def header(shape, dtype="<f8", *, is_fortran=False, version=b"\x01\x00"):
    """What `numpy.save` writes before the values, with any shape and type."""
    said = f"{{'descr': {dtype!r}, 'fortran_order': {is_fortran}, 'shape': {shape!r}}}\n".encode()
    length = len(said).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + said


def reader(signature, max_rows=100):
    return TableReader(signature, signature.inputs, max_rows)


def rows(signature, array, **how):
    return reader(signature, **how).array(read_npy(saved(array)), "npy")


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, -2.0], [3.0, 4.0]]),
        np.array([[1.5, -2.0], [3.0, 4.0]], order="F"),
        np.array([[1, 2], [3, 4]], ">i4"),
        np.array([[1, 2], [3, 4]], np.uint8),
        np.array([[1.5, 2.5]], np.float16),
        np.array([True, False]),
    ],
)
def test_what_numpy_saves_of_numbers_is_read_as_it_was(array):
    read = read_npy(saved(array))

    np.testing.assert_array_equal(read, array)
    assert read.dtype.isnative
    assert read.flags.c_contiguous


def test_an_array_of_python_objects_is_refused_and_its_pickle_not_run(tmp_path):
    place = tmp_path / "ran"

    class Harm:
        def __reduce__(self):
            return (open, (str(place), "w"))

    with pytest.raises(Invalid, match=r"values of '\|O', where numbers are read"):
        read_npy(saved(np.array([Harm()], object), allow_pickle=True))
    assert not place.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not NPY of version 1.0 or 2.0"),
        (b"[[1, 2]]", "not NPY of version"),
        (pickle.dumps(np.ones(2)), "not NPY of version"),
        (header((1, 2), version=b"\x03\x00") + bytes(16), "not NPY of version"),
        (header((1, 2))[:-9], "not NPY of version"),
        (header((1, 2), "<M8[s]") + bytes(16), "values of '<M8"),
        (header((1, 2), "<c16") + bytes(32), "values of '<c16'"),
        (header((1, 2), "<U2") + bytes(16), "values of '<U2'"),
        (header((1, 2)) + bytes(15), "15 bytes follow the header, whose shape makes 16"),
        (header((1, 2)) + bytes(17), "17 bytes follow the header, whose shape makes 16"),
        (header((10**15, 2)) + bytes(16), "whose shape makes 16000000000000000"),
        (header((-1, -2)) + bytes(16), "16 bytes follow the header"),
        (header(()) + bytes(8), "an array without rows"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused_before_memory_is_taken(body, message):
    with pytest.raises(Invalid) as refused:
        read_npy(body)

    assert message in refused.value.message
    assert refused.value.hint


def test_version_two_of_the_format_is_read():
    body = header((1, 2), version=b"\x02\x00") + np.array([1.0, 2.0]).tobytes()

    np.testing.assert_array_equal(read_npy(body), [[1.0, 2.0]])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_a_matrix_is_taken_as_it_is_in_any_type_of_number(dtype):
    columns, count = rows(MATRIX, np.array([[1, 2], [3, 4]], dtype))

    assert count == 2
    np.testing.assert_array_equal(columns["x"], [[1.0, 2.0], [3.0, 4.0]])


def test_columns_of_a_table_are_those_of_the_array_in_the_order_of_the_inputs():
    columns, count = rows(TABLE, np.array([[17.0, 0.5, 1.0], [3.0, np.nan, 0.0]]))

    assert count == 2
    assert columns["hour"].tolist() == [17, 3]
    np.testing.assert_array_equal(columns["wind"], np.array([0.5, np.nan], np.float32))
    assert columns["rain"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("signature", "array", "message"),
    [
        (MATRIX, np.ones((1, 3)), "npy[0]: 3 values, where the model takes 2"),
        (MATRIX, np.ones(2), "npy[0]: not a list, where the model takes 2 values"),
        (MATRIX, np.ones((0, 2)), "npy: no rows"),
        (MATRIX, np.array([[1.0, np.nan]]), "npy[0][1] is null or NaN"),
        (MATRIX, np.array([[1.0, np.inf]]), "npy[0][1] is infinite"),
        (TABLE, np.ones((1, 2)), "npy[0]: 2 values, where a row has 3"),
        (TABLE, np.array([[1.5, 0.5, 1.0]]), "npy[0] (hour): 1.5, where"),
        (TABLE, np.array([[1.0, 0.5, 2.0]]), "npy[0] (rain): 2.0, where"),
        (TABLE, np.array([[np.nan, 0.5, 1.0]]), "npy[0] (hour) is null"),
        (
            TABLE,
            np.array([[1.0, np.inf, 1.0]]),
            "npy[0] (wind) is infinite, where the model takes numbers",
        ),
    ],
)
def test_a_mistake_in_an_array_is_named_with_its_place(signature, array, message):
    with pytest.raises(Invalid) as refused:
        rows(signature, array)

    assert refused.value.message.startswith(message)


def test_the_rows_of_an_array_are_bounded_from_both_sides():
    assert rows(MATRIX, np.ones((3, 2)), max_rows=3)[1] == 3
    with pytest.raises(TooLarge):
        rows(MATRIX, np.ones((4, 2)), max_rows=3)


@pytest.mark.parametrize(
    "array", [np.array([0, 2]), np.array([[0.5, 0.25]]), np.array(["AA", "é"], object)]
)
def test_an_answer_is_what_numpy_loads_without_pickle(array):
    loaded = np.load(io.BytesIO(write_npy(array)), allow_pickle=False)

    assert loaded.tolist() == array.tolist()


def test_a_missing_text_has_no_place_in_an_array():
    with pytest.raises(ModelFailed, match="missing text"):
        write_npy(np.array(["AA", None], object))
