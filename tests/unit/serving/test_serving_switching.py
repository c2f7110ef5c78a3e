"""Parts that hasten the switching of threads do not undo each other."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from bascule.serving.execution import switching_within

INTERVALS_S = (0.004, 0.002, 0.001)


ORDERS = list(itertools.permutations(range(3)))


@pytest.mark.parametrize("ends", ORDERS)
@pytest.mark.parametrize("begins", ORDERS)
def test_the_shortest_interval_that_is_asked_for_holds_in_any_order_of_ends(
    begins, ends, monkeypatch
):
    # A server in this process may have asked already.
    monkeypatch.setattr("bascule.serving.execution.switching._intervals_s", [])
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    parts = {index: switching_within(INTERVALS_S[index]) for index in begins}
    try:
        for part in parts.values():
            part.__enter__()
        left = set(parts)
        for index in ends:
            assert sys.getswitchinterval() == pytest.approx(min(INTERVALS_S[i] for i in left))
            parts[index].__exit__(None, None, None)
            left.discard(index)
        assert sys.getswitchinterval() == pytest.approx(0.005)
    finally:
        sys.setswitchinterval(usual_s)


FIRST_BODY_WHILE_A_MODEL_LOADS = """
import sys
from bascule.serving.transports import offload
from bascule.serving.workers import loaded_models as room

def open_engine(model, loop):
    offload._thread.submit(int).result()
    assert sys.getswitchinterval() < 0.00051, sys.getswitchinterval()

room.open_engine = open_engine

class Loading:
    _loop = type("Loop", (), {"time": staticmethod(float)})

room.LoadedModels._open(Loading(), None)
print(sys.getswitchinterval())
"""


def test_a_first_large_body_during_a_load_keeps_its_interval_afterwards():
    """It was 5 ms from then on: every later body held up the loop five times as long."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_BODY_WHILE_A_MODEL_LOADS],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(done.stdout) == pytest.approx(0.001)
