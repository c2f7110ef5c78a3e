"""Transactions that are about all rows: one writer at a time, and none beside it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from bascule.catalogue import schema

ROW = {"name": "x", "holder": "y", "fence": 1, "expires_at": datetime(2026, 11, 29, tzinfo=UTC)}


def test_of_writers_alone_each_sees_what_the_one_before_it_wrote(catalogue):
    """Two restores both look whether the catalogue is empty, and the first alone fills it."""
    barrier = threading.Barrier(4)

    def fill() -> bool:
        barrier.wait(30)
        with catalogue.write(alone=True) as connection:
            is_empty = connection.execute(sa.select(schema.leases)).first() is None
            if is_empty:
                connection.execute(sa.insert(schema.leases).values(ROW))
        return is_empty

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(lambda _: fill(), range(4))) == [False, False, False, True]


@pytest.mark.parametrize("alone", ["first", "second"])
def test_a_writer_alone_and_other_writers_wait_for_each_other(catalogue, alone):
    def write() -> bool:
        with catalogue.write(alone=alone == "second"):
            return True

    with ThreadPoolExecutor(1) as pool:
        with catalogue.write(alone=alone == "first"):
            waiting = pool.submit(write)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
        assert waiting.result(30)
