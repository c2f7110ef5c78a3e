from __future__ import annotations

import os

import pytest
from hypothesis import given, strategies as st

from bascule.serving.workers.memory import Resident, choose_evicted, resident_bytes

OLD = Resident("old", 40, 1.0, is_busy=False)
BUSY = Resident("busy", 30, 2.0, is_busy=True)
NEW = Resident("new", 30, 3.0, is_busy=False)
ALL = [NEW, OLD, BUSY]


@pytest.mark.parametrize(
    ("needed", "budget", "evicted"),
    [
        (0, 100, []),
        (1, 101, []),
        (1, 100, ["old"]),
        (40, 100, ["old"]),
        (41, 100, ["old", "new"]),
        (70, 100, ["old", "new"]),
        (71, 100, None),
        (10, 0, None),
    ],
)
def test_who_was_not_asked_for_the_longest_makes_room_and_who_is_busy_stays(
    needed, budget, evicted
):
    assert choose_evicted(ALL, needed, budget) == evicted


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 100), st.booleans()), max_size=12),
    st.integers(0, 100),
    st.integers(0, 300),
)
def test_after_an_eviction_there_is_room_and_no_one_went_for_nothing(models, needed, budget):
    residents = [Resident(number, *model) for number, model in enumerate(models)]
    evicted = choose_evicted(residents, needed, budget)
    if evicted is None:
        stay = sum(one.size_bytes for one in residents if one.is_busy)
        assert stay + needed > budget
        return
    kept = [one for one in residents if one.name not in evicted]
    assert sum(one.size_bytes for one in kept) + needed <= budget
    if evicted:
        last = residents[evicted[-1]]
        assert sum(one.size_bytes for one in [*kept, last]) + needed > budget
    assert not any(residents[name].is_busy for name in evicted)


def test_the_memory_of_this_process_and_of_one_that_is_not_there():
    assert resident_bytes() == pytest.approx(resident_bytes(os.getpid()), rel=0.05)
    assert resident_bytes() > 10 << 20
    assert resident_bytes(2**30) == 0
