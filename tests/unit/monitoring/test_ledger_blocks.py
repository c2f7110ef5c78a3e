"""Blocks of the spool: what is written is read, and nothing that is torn is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from bascule.monitoring.ledger import Block, read_blocks, to_bytes


def block(number: int = 0, rows: int = 2) -> Block:
    return Block(
        model="gb", version="3", endpoint="gb", interval=number, share=0.5,
        requests={
            "id": [f"id-{number}"], "caller": [""], "protocol": ["http"], "trace": [None],
            "time_ns": np.array([1_700_000_000_000_000_000]), "latency_ns": np.array([5]),
            "status": np.array([200], np.int16), "rows": np.array([rows]),
            "kept_rows": np.array([rows]), "draw": np.array([0.25]),
        },
        inputs={
            "x": np.arange(rows * 3.0).reshape(rows, 3),
            "t": np.array(["a", None][:rows], object),
        },
        outputs={"label": np.array([1, 0][:rows], np.int32)},
    )  # fmt: skip


def same(one: Block, other: Block) -> bool:
    def plain(value):
        return value if isinstance(value, list) else (value.dtype, value.shape, value.tolist())

    parts = ("requests", "inputs", "outputs")
    return all(
        {name: plain(v) for name, v in getattr(one, part).items()}
        == {name: plain(v) for name, v in getattr(other, part).items()}
        for part in parts
    ) and (one.model, one.interval, one.share) == (other.model, other.interval, other.share)


def test_a_block_is_read_as_it_was_written():
    ((found, end),) = read_blocks(to_bytes(block()))
    assert same(found, block())
    assert end == len(to_bytes(block()))


@given(cut=st.integers(0, len(to_bytes(block())) - 1))
def test_a_block_that_is_cut_short_ends_the_reading_before_it(cut):
    whole = to_bytes(block(0))
    read = list(read_blocks(whole + to_bytes(block(1))[:cut]))
    assert [one.interval for one, _ in read] == [0]
    assert read[-1][1] == len(whole)


@given(place=st.integers(0, len(to_bytes(block())) - 1), flip=st.integers(1, 255))
def test_a_block_with_one_wrong_byte_is_not_read(place, flip):
    data = bytearray(to_bytes(block()))
    data[place] ^= flip
    assert list(read_blocks(bytes(data))) == []


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<i8", "u1", "?"])
def test_numbers_keep_their_type_and_their_bits(dtype):
    values = np.array([0, 1, 1], dtype)
    written = block(rows=1)
    written.inputs = {"x": values}
    ((found, _),) = read_blocks(to_bytes(written))
    assert found.inputs["x"].dtype == np.dtype(dtype)
    assert found.inputs["x"].tobytes() == values.tobytes()
