"""A model that is not in memory: who asks waits for it, within its deadline."""

from __future__ import annotations

import weakref
from functools import partial

import numpy as np
import pytest

from bascule.core.errors import Overloaded, Unavailable
from bascule.serving.calls import Call
from bascule.serving.execution.admission import BESIDE_CALL_BYTES, BufferBudget
from bascule.serving.execution.engine import Engine
from bascule.serving.execution.predictors import Facts
from bascule.serving.execution.served import ServedModel
from bascule.serving.limits import Limits
from bascule.serving.specs import ModelSpec
from bascule.serving.telemetry.counters import Counters


class Sleeper:
    """A model that is asleep on a loop, and what becomes of its calls."""

    def __init__(self, running, program, tmp_path, **limits):
        self.running, self.program = running, program
        self.limits = Limits(**limits)
        self.woken = []
        self.outcomes = []

        def make():
            model = ServedModel(
                ModelSpec("m", "1", tmp_path),
                signature=program.signature,
                program=Facts(program.name, program.inputs, program.outputs),
                digest="sha256:0",
                batch_invariant=True,
                pace=None,
                series=Counters(tmp_path / "sleeper", 1).series(0),
                limits=self.limits,
                loop=running.loop,
                held=BufferBudget(self.limits.max_held_bytes),
            )
            model.request_load = self.woken.append
            return model

        self.model = running.on_loop(make)

    def ask(self, value, allowed_s=10.0):
        place = len(self.outcomes)
        self.outcomes.append(None)
        call = Call({"x": np.full((1, 2), value, np.float64)}, 1, ("sum",))

        def go():
            return self.model.answer(
                call, None, allowed_s, lambda outcome: self.outcomes.__setitem__(place, outcome)
            )

        return self.running.on_loop(go)

    def wake(self, pace):
        def go():
            engine = Engine(
                self.program, pace, self.limits, self.running.loop,
                by=self.model.by, held=self.model.held,
            )  # fmt: skip
            self.model.loaded(engine)

        self.running.on_loop(go)

    def answered(self):
        self.running.until(lambda: all(outcome is not None for outcome in self.outcomes))
        return self.outcomes


@pytest.fixture
def sleeper(serve_routes, program, tmp_path):
    return lambda **limits: Sleeper(serve_routes({}), program, tmp_path, **limits)


@pytest.mark.parametrize("pace", ["inline", "thread"])
def test_whoever_asks_wakes_it_and_is_answered_when_it_is_there(sleeper, pace, request):
    asleep = sleeper()
    asleep.ask(1), asleep.ask(2)
    assert asleep.outcomes == [None, None]
    assert asleep.woken == [asleep.model, asleep.model]
    assert asleep.model.open_calls == 2

    asleep.wake(request.getfixturevalue(pace))

    assert [outcome.outputs["sum"].tolist() for outcome in asleep.answered()] == [[2], [4]]
    asleep.ask(3)
    assert asleep.answered()[2].outputs["sum"].tolist() == [6]
    asleep.running.until(lambda: asleep.model.open_calls == 0)


def test_who_cannot_wait_so_long_is_told_to_come_back_and_is_not_run(sleeper, inline):
    asleep = sleeper()
    asleep.ask(1, allowed_s=0.03)
    (late,) = asleep.answered()
    assert isinstance(late, Unavailable)
    assert late.message == "m/1 was not loaded within 30 ms"
    assert late.facts == {"retry_after_s": 1}
    asleep.wake(inline)
    assert asleep.program.runs == []


def test_who_has_gone_meanwhile_is_not_run(sleeper, inline, thread):
    asleep = sleeper()
    cancel = asleep.ask(1)
    asleep.ask(2)
    asleep.running.on_loop(cancel)
    asleep.wake(thread)
    asleep.running.until(lambda: asleep.outcomes[1] is not None)
    assert asleep.outcomes[0] is None
    assert asleep.program.runs == [1]


def test_a_call_can_still_be_given_up_after_its_model_woke(sleeper, thread):
    asleep = sleeper()
    asleep.program.gate.clear()
    asleep.ask(1)
    cancel = asleep.ask(2)
    asleep.wake(thread)
    assert asleep.program.running.wait(10)
    asleep.running.on_loop(cancel)
    asleep.program.gate.set()
    asleep.running.until(lambda: asleep.outcomes[0] is not None)
    asleep.running.until(lambda: asleep.model.open_calls == 0)
    assert asleep.outcomes[1] is None


def test_what_kept_it_asleep_is_told_to_all_who_wait(sleeper):
    asleep = sleeper()
    asleep.ask(1), asleep.ask(2)
    problem = Unavailable("no room")
    asleep.running.on_loop(lambda: asleep.model.load_failed(problem))
    assert asleep.answered() == [problem, problem]
    assert asleep.model.open_calls == 0


def test_no_more_wait_for_it_than_may_wait_in_a_queue(sleeper):
    asleep = sleeper(max_queue_requests=2)
    asleep.ask(1), asleep.ask(2)
    with pytest.raises(Overloaded, match="2 requests wait for it"):
        asleep.ask(3)


# -- what waits is bounded in bytes --

CALL_BYTES = BESIDE_CALL_BYTES + 16


def test_the_line_of_a_model_that_is_being_loaded_is_bounded_in_bytes(sleeper, inline):
    asleep = sleeper(max_held_bytes=2 * CALL_BYTES)
    asleep.ask(1), asleep.ask(2)
    assert asleep.model.held.bytes == 2 * CALL_BYTES
    with pytest.raises(Overloaded) as refused:
        asleep.ask(3)
    asleep.outcomes.pop()
    assert refused.value.facts == {"retry_after_s": 1}
    assert f"wait for m/1 or elsewhere already take {2 * CALL_BYTES} of" in refused.value.message
    asleep.wake(inline)
    assert [outcome.outputs["sum"].tolist() for outcome in asleep.answered()] == [[2], [4]]
    assert asleep.model.held.bytes == 0


def test_who_finds_nothing_held_may_wait_however_large_the_request_is(sleeper, inline):
    asleep = sleeper(max_held_bytes=1)
    asleep.ask(1)
    asleep.wake(inline)
    assert asleep.answered()[0].outputs["sum"].tolist() == [2]
    assert asleep.model.held.bytes == 0


@pytest.mark.parametrize("how", ["given up", "late", "told that it cannot be loaded", "run"])
def test_nothing_is_held_any_more_of_a_call_that_was(sleeper, thread, how):
    asleep = sleeper()
    cancel = asleep.ask(1, allowed_s=0.01 if how == "late" else 10.0)
    if how == "given up":
        assert asleep.model.held.bytes == CALL_BYTES
        asleep.running.on_loop(cancel)
    elif how == "told that it cannot be loaded":
        asleep.running.on_loop(lambda: asleep.model.load_failed(Unavailable("no")))
    elif how == "run":
        asleep.wake(thread)
    asleep.running.until(lambda: asleep.model.held.bytes == 0)
    asleep.running.on_loop(cancel)  # once more, of what has gone
    assert asleep.model.held.bytes == 0


def test_a_call_that_was_given_up_does_not_keep_its_rows_until_its_model_wakes(sleeper):
    asleep = sleeper()

    def ask():
        call = Call({"x": np.zeros((1, 2))}, 1, ("sum",))
        bound = partial(asleep.outcomes.append, call)  # as one that adds a confidence holds it
        return weakref.ref(call.columns["x"]), asleep.model.answer(call, None, 10.0, bound)

    kept, cancel = asleep.running.on_loop(ask)
    assert kept() is not None
    asleep.running.on_loop(cancel)
    assert len(asleep.model._waiting) == 1
    asleep.running.until(lambda: kept() is None)
