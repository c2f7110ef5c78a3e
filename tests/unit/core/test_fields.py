"""Fields and signatures."""

import numpy as np
import pytest

from bascule.core.errors import Invalid
from bascule.core.fields import DType, Field, Signature

SIGNATURE = Signature(
    inputs=(
        Field("hour", DType.INT64),
        Field("carrier", DType.BYTES, categories=("AA", "UA")),
        Field("wind", DType.FP64, nullable=True),
    ),
    outputs=(Field("label", DType.INT64), Field("probabilities", DType.FP32, (2,))),
    columns=("hour", "carrier", "wind"),
)


def test_one_input_with_columns_is_a_matrix_and_several_are_a_table():
    assert Signature((Field("input", DType.FP64, (30,)),), ()).is_matrix
    assert not SIGNATURE.is_matrix
    assert not Signature((Field("text", DType.BYTES),), ()).is_matrix


@pytest.mark.parametrize("dtype", [d for d in DType if d is not DType.BYTES])
def test_every_number_type_has_a_numpy_type_and_back(dtype):
    assert DType.of(dtype.numpy) is dtype


@pytest.mark.parametrize("text", [np.dtype("U5"), np.dtype("S5"), np.dtype(object)])
def test_text_of_any_kind_is_bytes(text):
    assert DType.of(text) is DType.BYTES


def test_byte_order_does_not_change_the_type():
    assert DType.of(np.dtype(">f8")) is DType.FP64


@pytest.mark.parametrize("dtype", ["complex128", "datetime64[s]"])
def test_a_type_that_no_tensor_has_is_refused(dtype):
    with pytest.raises(Invalid):
        DType.of(np.dtype(dtype))
