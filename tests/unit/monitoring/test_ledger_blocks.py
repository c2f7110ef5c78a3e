"""Blocks of the spool: what is written is read, and nothing that is torn is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from bascule.monitoring.ledger.blocks import (
    TEXT,
    Column,
    Head,
    Layout,
    pack_request,
    read_blocks,
    text_pieces,
    to_bytes,
)
from bascule.monitoring.ledger.tables import answers_of

X = np.arange(6.0).reshape(2, 3)
TIME_NS = 1_700_000_000_000_000_000


def block(number: int = 0, x: np.ndarray = X, texts: tuple[str | None, ...] = ("a", None)) -> bytes:
    layout = Layout((Column("x", x.dtype.str, x.shape[1:]), Column("t", TEXT)))
    rows = len(x)
    request = pack_request(TIME_NS, 5, 0.25, rows, rows, 200, 0)
    pieces = [request, *text_pieces([f"id-{number}"]), b"", x.tobytes(), *text_pieces(texts)]
    head = Head(
        "gb", "3", "gb", number, 0.5, (("me", "oip", ""),), layout.to_bytes(),
        sizes=tuple(map(len, pieces)),
    )  # fmt: skip
    pieces[4] = x
    return bytes(to_bytes(head, pieces))


def test_a_block_is_read_as_it_was_written():
    ((found, end),) = read_blocks(block(7))
    assert end == len(block(7))
    (answers,) = answers_of([found])
    inputs, outputs = answers.columns(np.arange(2))
    assert {name: values.tolist() for name, values in inputs.items()} == {
        "x.0": [0, 3], "x.1": [1, 4], "x.2": [2, 5], "t": ["a", None],
    }  # fmt: skip
    assert outputs == {}
    assert answers.ids.to_pylist() == ["id-7", "id-7"]
    assert answers.places.tolist() == [0, 1]
    row = answers.table().to_pylist()[1]
    assert (row["caller"], row["protocol"], row["kept_share"]) == ("me", "oip", 0.5)


@given(cut=st.integers(0, len(block()) - 1))
def test_a_block_that_is_cut_short_ends_the_reading_before_it(cut):
    whole = block(0)
    read = list(read_blocks(whole + block(1)[:cut]))
    assert [one.head.interval for one, _ in read] == [0]
    assert read[-1][1] == len(whole)


@given(place=st.integers(0, len(block()) - 1), flip=st.integers(1, 255))
def test_a_block_with_one_wrong_byte_is_not_read(place, flip):
    data = bytearray(block())
    data[place] ^= flip
    assert list(read_blocks(bytes(data))) == []


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<i8", "u1", "?"])
def test_numbers_keep_their_type_and_their_bits(dtype):
    values = np.array([0, 1, 1], dtype)
    ((found, _),) = read_blocks(block(x=values, texts=("",) * 3))
    (answers,) = answers_of([found])
    assert answers.inputs["x"].dtype == np.dtype(dtype)
    assert answers.inputs["x"].tobytes() == values.tobytes()


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_texts_are_read_as_they_were_written(texts):
    x = np.zeros(len(texts))
    ((found, _),) = read_blocks(block(x=x, texts=tuple(texts)))
    (answers,) = answers_of([found])
    assert answers.inputs["t"].to_pylist() == texts


def test_a_part_of_a_table_is_written_as_its_values():
    strided = np.arange(6.0).reshape(3, 2)[:, 1]
    ((found, _),) = read_blocks(block(x=strided, texts=("",) * 3))
    (answers,) = answers_of([found])
    assert answers.inputs["x"].tolist() == [1, 3, 5]
