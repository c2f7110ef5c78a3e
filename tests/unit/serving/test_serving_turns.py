"""Turns of a program that gives few answers in parts at once: whose is next, and how one ends."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from tests.pace import is_within

from bascule.core import Overloaded, Program, TimedOut
from bascule.serving import Limits
from bascule.serving.calls import AnsweredBy
from bascule.serving.execution import parts as module
from bascule.serving.execution.admission import BufferBudget
from bascule.serving.execution.parts import PartsRunner

BY = AnsweredBy("chat", "1", "original")
WAIT_S = 20.0


class OneByOne(Program):
    """A row [count, pause_s] has so many parts, each after such a pause."""

    name, inputs, outputs = "one by one", (), ()
    most_parts = 1

    def run(self, columns, outputs=None):
        raise NotImplementedError

    def run_in_parts(self, columns, outputs, cancelled):
        count, pause_s = columns["x"][0]
        for number in range(int(count)):
            if cancelled.wait(pause_s):
                return
            yield {"y": np.array([number])}


class Reader:
    """Receives one answer; `reads=False` has never room after the first part."""

    def __init__(self, runner, caller, count, pause_s=0.0, *, reads=True):
        self.parts, self.error, self.ended = [], None, asyncio.Event()
        self._reads = reads
        columns = {"x": np.array([[count, pause_s]])}
        self.cancel = runner.run(columns, None, WAIT_S, self._deliver, BY, caller)

    def _deliver(self, outcome):
        if isinstance(outcome, Exception):
            self.finish(outcome)
        else:
            outcome.start(self)

    def take(self, part):
        self.parts.append(part)
        return self._reads

    def finish(self, error):
        self.error, self.ended_s = error, time.monotonic()
        self.ended.set()


def running(test):
    """Run a test on a loop, with a runner."""

    async def run():
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(
            test(
                PartsRunner(OneByOne(), Limits(max_queue_requests=8), loop, BufferBudget(1 << 20))
            ),
            WAIT_S,
        )

    asyncio.run(run())


def test_the_next_turn_is_for_the_caller_that_had_the_least_time():
    async def test(runner):
        heavy = [Reader(runner, "heavy", 2, 0.05) for _ in range(5)]
        await heavy[0].ended.wait()
        light = [Reader(runner, "light", 1, 0.01) for _ in range(2)]
        for reader in (*heavy, *light):
            await reader.ended.wait()
        order = sorted((*heavy, *light), key=lambda reader: reader.ended_s)
        assert order[:2] == heavy[:2], "what has its turn keeps it"
        assert order[2:4] == light
        assert all(reader.error is None for reader in order)

    running(test)


def test_a_caller_that_comes_later_gets_no_credit_for_the_time_before():
    async def test(runner):
        first = [Reader(runner, "first", 1, 0.05) for _ in range(4)]
        await first[1].ended.wait()
        late = [Reader(runner, "late", 1, 0.05) for _ in range(4)]
        for reader in (*first, *late):
            await reader.ended.wait()
        order = sorted((*first[2:], *late), key=lambda reader: reader.ended_s)
        assert {*map(id, order[:4])} & {id(first[3])}, "the late one does not catch up first"

    running(test)


def test_callers_without_anything_to_do_are_forgotten():
    async def test(runner):
        for number in range(20):
            await Reader(runner, f"caller {number}", 1).ended.wait()
        assert not runner._turns.used_s
        assert not runner.open_calls

    running(test)


def test_many_callers_that_each_ask_once_are_not_remembered_for_ever():
    turns = module._Turns()
    turns.add("always")
    for number in range(3_000):
        turns.add(f"caller {number}")
        turns.begin(f"caller {number}")
        turns.remove(f"caller {number}", 0.1)
    assert len(turns.used_s) < 1_100
    assert "always" in turns.used_s


def test_a_slow_reader_does_not_hold_the_only_turn(monkeypatch):
    monkeypatch.setattr(module, "STALL_S", 0.2)
    monkeypatch.setattr(module, "_ROOM_OF_FEW", (4, 1 << 20))

    async def test(runner):
        slow = Reader(runner, "slow", 100, reads=False)
        began_s = time.monotonic()
        other = Reader(runner, "other", 3)
        await other.ended.wait()
        assert is_within(time.monotonic() - began_s, 0.5)
        assert (other.error, len(other.parts)) == (None, 3)
        assert len(slow.parts) == 1
        slow.cancel()

    running(test)


def test_an_answer_of_usual_length_is_made_at_once_for_a_slow_reader():
    async def test(runner):
        slow = Reader(runner, "slow", 2_000, reads=False)
        other = Reader(runner, "other", 1)
        began_s = time.monotonic()
        await other.ended.wait()
        assert other.error is None
        assert time.monotonic() - began_s < module.STALL_S, (
            "other callers did not wait for the slow reader"
        )
        slow.cancel()

    running(test)


def test_a_slow_reader_learns_why_its_answer_ended(monkeypatch):
    monkeypatch.setattr(module, "STALL_S", 0.1)
    monkeypatch.setattr(module, "_ROOM_OF_FEW", (2, 1 << 20))

    async def test(runner):
        kept = []
        runner.run({"x": np.array([[100, 0]])}, None, WAIT_S, kept.append, BY, "slow")
        while runner.open_calls:
            await asyncio.sleep(0.01)
        reader = Reader.__new__(Reader)
        reader.parts, reader.ended, reader._reads = [], asyncio.Event(), True
        kept[0].start(reader)
        await reader.ended.wait()
        assert isinstance(reader.error, TimedOut)
        assert len(reader.parts) == 2

    running(test)


def test_who_leaves_the_queue_gives_its_place_back():
    async def test(runner):
        running_one = Reader(runner, "a", 1, 0.3)
        waiting = [Reader(runner, "b", 1) for _ in range(8)]
        with pytest.raises(Overloaded):
            Reader(runner, "c", 1)
        for reader in waiting:
            reader.cancel()
        assert runner.open_calls == 1
        await running_one.ended.wait()

    running(test)
