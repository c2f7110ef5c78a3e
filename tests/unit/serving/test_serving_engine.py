from __future__ import annotations

import logging
import threading
import time
import weakref
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from bascule.core.errors import Invalid, ModelFailed, Overloaded, TimedOut, Unavailable
from bascule.core.programs import Program
from bascule.serving.calls import Answer, AnsweredBy
from bascule.serving.execution.admission import BESIDE_CALL_BYTES, BufferBudget
from bascule.serving.execution.engine import Batcher, Engine, Job, measure_pace, run_together
from bascule.serving.execution.placement import Pace, Stretch, longest_wait_s
from bascule.serving.limits import Limits

pytestmark = pytest.mark.serial

INFER = "/v2/models/m/infer"
BY = AnsweredBy("m", "1", "fake")


def bare(outcome):
    """The outputs of an answer, whose origin was checked; an error as it is."""
    if not isinstance(outcome, Answer):
        return outcome
    assert outcome.by is BY
    return outcome.outputs


class Calls:
    """Submits to a batcher on a loop and collects what is delivered."""

    def __init__(self, running, program, pace, *, account=None, **limits):
        self.running = running
        limits = Limits(**limits)
        self.account = account or BufferBudget(limits.max_held_bytes)
        self.batcher = Batcher(
            program, pace, limits, running.loop, by=BY, held=self.account
        )  # fmt: skip
        self.outcomes: list = []

    def submit(self, *requests, deadline_s=10.0):
        """Submit all of them in one turn of the loop."""
        jobs = []

        def go():
            for x, outputs in requests:
                place = len(self.outcomes)
                self.outcomes.append(None)
                job = Job(
                    {"x": np.asarray(x, np.float64)}, len(x), outputs,
                    lambda outcome, place=place: self.outcomes.__setitem__(place, bare(outcome)),
                )  # fmt: skip
                self.batcher.submit(job, deadline_s)
                jobs.append(job)

        self.running.on_loop(go)
        return jobs

    def all(self):
        self.running.until(lambda: all(outcome is not None for outcome in self.outcomes))
        return self.outcomes


@pytest.fixture
def running(serve_routes):
    return serve_routes({})


def rows(start, count):
    return [[start + row, -row] for row in range(count)]


def held(calls, program, deadline_s=10.0):
    """Keep the thread busy with one call until the gate is opened."""
    program.gate.clear()
    program.running.clear()
    calls.submit(([[0.5, 0.5]], None), deadline_s=deadline_s)
    assert program.running.wait(10)


# -- everybody gets their own --


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 6),
            st.sampled_from([None, ("twice",), ("sum",), ("sum", "twice"), ("twice", "sum")]),
        ),
        min_size=1,
        max_size=25,
    )
)
def test_every_caller_gets_its_own_rows_and_the_outputs_that_it_asked_for(
    running, thread, fake, sizes
):
    program = fake()
    calls = Calls(running, program, thread)
    held(calls, program)
    requests = [(rows(100 * place, count), outputs) for place, (count, outputs) in enumerate(sizes)]
    calls.submit(*requests)
    program.gate.set()
    for (x, outputs), outcome in zip(requests, calls.all()[1:], strict=True):
        x = np.asarray(x, np.float64)
        expected = {"twice": x * 2, "sum": x.sum(axis=1)}
        assert list(outcome) == list(outputs or expected)
        for name, array in outcome.items():
            np.testing.assert_array_equal(array, expected[name])
    assert max(program.runs) <= thread.batch_rows or len(sizes) == 1
    running.on_loop(calls.batcher.stop)


# -- batching while busy --


def test_a_call_to_an_idle_thread_runs_at_once_and_alone(running, program, thread):
    calls = Calls(running, program, thread)
    for _ in range(3):
        calls.submit(([[1, 2]], None))
        calls.all()
    assert program.runs == [1, 1, 1]


def test_calls_that_come_while_the_thread_is_busy_run_together(running, program, thread):
    calls = Calls(running, program, thread)
    held(calls, program)
    calls.submit(*[(rows(place, 2), None) for place in range(4)])
    program.gate.set()
    calls.all()
    assert program.runs == [1, 8]


def test_never_means_that_each_runs_alone(running, program, thread):
    calls = Calls(running, program, thread, batching="never")
    held(calls, program)
    calls.submit(*[(rows(place, 2), None) for place in range(4)])
    program.gate.set()
    calls.all()
    assert program.runs == [1, 2, 2, 2, 2]


@pytest.mark.parametrize(("batching", "is_alone"), [("never", True), ("auto", False)])
@pytest.mark.parametrize("where", ["thread", "loop"])
def test_with_never_no_caller_changes_the_answer_of_another(
    running, fake, thread, where, batching, is_alone
):
    """Of a program that computes over its rows, such as a bundle of an older version may hold."""

    class OverRows(fake):
        def run(self, columns, outputs=None):
            made = super().run(columns, outputs)
            return {name: values - values.mean() for name, values in made.items()}

    program = OverRows()
    alone = program.run({"x": np.array([[3.0, 5.0]])})["twice"].tolist()
    mine = ([[3, 5]], ("twice",))
    requests = [request for other in range(40) for request in (mine, (rows(other, 3), ("twice",)))]
    if where == "thread":
        calls = Calls(running, program, thread, batching=batching)
        held(calls, program)
        calls.submit(*requests)
        program.gate.set()
        outcomes = calls.all()[1:]
        running.on_loop(calls.batcher.stop)
    else:
        outcomes = Turn(running, program, batching=batching).take(*requests)
    answers = [outcome["twice"].tolist() for outcome in outcomes[::2]]
    assert (answers == [alone] * 40) is is_alone


@pytest.mark.parametrize(
    ("sizes", "runs"),
    [
        ([3, 5], [8]),
        ([3, 6], [3, 6]),
        ([8, 1], [8, 1]),
        ([20, 1, 1], [20, 2]),
        ([7, 2, 6, 1], [7, 8, 1]),
    ],
)
def test_no_run_is_larger_than_the_best_batch_unless_one_call_is(
    running, program, thread, sizes, runs
):
    calls = Calls(running, program, thread)
    held(calls, program)
    calls.submit(*[(rows(0, size), None) for size in sizes])
    program.gate.set()
    calls.all()
    assert program.runs[1:] == runs


# -- bounds --


def test_one_call_more_than_the_queue_takes_is_refused_at_once(running, program, thread):
    calls = Calls(running, program, thread, max_queue_requests=3)
    held(calls, program)
    calls.submit(*[([[1, 1]], None)] * 2)
    with pytest.raises(Overloaded, match="3 requests waiting") as refused:
        calls.submit(([[1, 1]], None))
    assert refused.value.facts["retry_after_s"] >= 1
    calls.outcomes.pop()
    program.gate.set()
    calls.all()
    calls.submit(([[1, 1]], None))
    calls.all()


def test_calls_that_were_given_up_do_not_fill_the_queue_without_end(running, program, thread):
    calls = Calls(running, program, thread, max_queue_requests=2)
    held(calls, program)
    for _ in range(8):
        (job,) = calls.submit(([[1, 1]], None))
        calls.outcomes.pop()
        running.on_loop(job.cancel)
    with pytest.raises(Overloaded):
        calls.submit(([[1, 1]], None))
    calls.outcomes.pop()
    program.gate.set()
    calls.all()
    assert program.runs == [1]


def test_a_deadline_is_kept_though_the_program_is_stuck_and_the_call_is_not_run_later(
    running, program, thread
):
    calls = Calls(running, program, thread)
    held(calls, program)
    started = time.monotonic()
    calls.submit(([[1, 1]], None), deadline_s=0.05)
    running.until(lambda: calls.outcomes[1] is not None)
    assert 0.045 <= time.monotonic() - started < 1
    assert isinstance(calls.outcomes[1], TimedOut)
    assert calls.outcomes[1].message == "no answer within 50 ms"
    assert running.on_loop(lambda: calls.batcher.open_calls) == 1
    program.gate.set()
    calls.all()
    calls.submit(([[2, 2]], None))
    calls.all()
    assert program.runs == [1, 1]


def test_the_call_that_runs_is_answered_at_its_deadline_as_well(running, program, thread):
    calls = Calls(running, program, thread)
    program.gate.clear()
    calls.submit(([[1, 1]], None), deadline_s=0.05)
    assert isinstance(calls.all()[0], TimedOut)
    program.gate.set()


def test_a_call_whose_client_has_gone_is_not_run(running, program, thread):
    calls = Calls(running, program, thread)
    held(calls, program)
    (job,) = calls.submit(([[1, 1]], None))
    running.on_loop(job.cancel)
    program.gate.set()
    calls.submit(([[2, 2]], None))
    running.until(lambda: calls.outcomes[2] is not None)
    assert program.runs == [1, 1]
    assert calls.outcomes[1] is None
    assert running.on_loop(lambda: calls.batcher.open_calls) == 0


def test_a_stopped_batcher_finishes_what_it_has_and_takes_no_more(running, program, thread):
    calls = Calls(running, program, thread)
    held(calls, program)
    calls.submit(([[1, 1]], None))
    ended = []
    thread_of_it = calls.batcher._thread
    running.on_loop(lambda: calls.batcher.stop(lambda: ended.append(list(calls.outcomes))))
    with pytest.raises(Unavailable):
        calls.submit(([[1, 1]], None))
    calls.outcomes.pop()
    assert running.on_loop(lambda: ended) == []
    program.gate.set()
    running.until(lambda: ended)
    assert ended == [calls.all()], "it ends after the last answer, and once"
    thread_of_it.join(10)
    assert not thread_of_it.is_alive()


def test_a_batcher_that_never_ran_ends_at_once(running, program, thread):
    calls = Calls(running, program, thread)
    ended = []
    running.on_loop(lambda: calls.batcher.stop(lambda: ended.append(True)))
    running.until(lambda: ended == [True])


def test_a_call_whose_turn_would_come_after_its_deadline_is_refused_at_once(running, program):
    # Measured before: a run takes 100 ms, and 4 rows run together.
    pace = Pace(one_row_s=0.1, inline_rows=0, batch_rows=4)
    calls = Calls(running, program, pace)
    held(calls, program)
    calls.submit(*[([[1, 1]], None)] * 4)  # the next run; whoever comes now is of the one after
    with pytest.raises(
        Overloaded, match=r"would answer in about 0\.(3|2\d) s, after the deadline"
    ) as told:
        calls.submit(([[1, 1]], None), deadline_s=0.25)
    assert told.value.facts["retry_after_s"] == 1
    calls.outcomes.pop()
    calls.submit(([[1, 1]], None), deadline_s=0.5)
    program.gate.set()
    assert all(isinstance(outcome, dict) for outcome in calls.all())
    assert program.runs == [1, 4, 1]


def test_a_call_that_was_given_up_keeps_nobody_else_waiting(running, program):
    pace = Pace(one_row_s=0.1, inline_rows=0, batch_rows=1)
    calls = Calls(running, program, pace)
    held(calls, program)
    jobs = calls.submit(*[([[1, 1]], None)] * 20)
    with pytest.raises(Overloaded):
        calls.submit(([[1, 1]], None), deadline_s=1.0)
    for job in jobs:
        running.on_loop(job.cancel)
    calls.outcomes[1:] = []
    calls.submit(([[2, 2]], None), deadline_s=1.0)
    program.gate.set()
    calls.all()
    assert program.runs == [1, 1]


def test_an_idle_thread_takes_a_call_though_it_was_slow_before(running, program, monkeypatch):
    """Or what is expected would never be measured again."""
    pace = Pace(one_row_s=10.0, inline_rows=0, batch_rows=1)
    calls = Calls(running, program, pace)
    calls.submit(([[1, 1]], None), deadline_s=5.0)
    assert isinstance(calls.all()[0], dict)
    # That run took next to nothing, and the expectation moves.
    before_s = running.on_loop(lambda: calls.batcher._expected_wait_s(1, 1))
    for _ in range(20):
        calls.submit(([[1, 1]], None), deadline_s=5.0)
        calls.all()
    assert running.on_loop(lambda: calls.batcher._expected_wait_s(1, 1)) < before_s / 2


# -- waiting for company --


class Paced(Program):
    """Takes 40 ms a run and 1 ms a row, and notes when runs began."""

    pace = Pace(one_row_s=41e-3, inline_rows=0, batch_rows=16, row_s=1e-3)

    def __init__(self, program):
        self._program = program
        self.name = program.name
        self.runs, self.began_s = [], []

    def run(self, columns, outputs=None):
        rows = len(columns["x"])
        self.runs.append(rows)
        self.began_s.append(time.perf_counter())
        time.sleep(40e-3 + rows * 1e-3)
        return self._program.run(columns, outputs)


class ClosedLoop:
    """Clients that ask again some time after they were answered."""

    def __init__(self, calls, clients, away_s):
        self._calls, self._away_s = calls, away_s
        self.asked_s = []
        self.is_over = False
        calls.running.on_loop(lambda: [self._ask() for _ in range(clients)])

    def _ask(self):
        if not self.is_over:
            self.asked_s.append(time.perf_counter())
            job = Job({"x": np.ones((1, 2))}, 1, None, self._answered)
            self._calls.batcher.submit(job, 10.0)

    def _answered(self, outcome):
        self._calls.running.loop.call_later(self._away_s, self._ask)


def test_clients_that_come_back_together_are_run_together(running, program):
    """Without waiting the first to come back would be run alone, and all others after it."""
    paced = Paced(program)
    calls = Calls(running, paced, Paced.pace)
    clients = ClosedLoop(calls, clients=8, away_s=0.004)
    # Not by a certain run: where a machine stops for a moment, they part and find together again.
    running.until(lambda: paced.runs[-6:] == [8] * 6)
    clients.is_over = True
    running.until(lambda: calls.batcher.open_calls == 0)


def test_clients_that_come_back_together_are_run_one_by_one_where_batching_is_never(
    running, program
):
    paced = Paced(program)
    calls = Calls(running, paced, Paced.pace, batching="never")
    clients = ClosedLoop(calls, clients=8, away_s=0.004)
    running.until(lambda: len(paced.runs) >= 10)
    clients.is_over = True
    running.until(lambda: calls.batcher.open_calls == 0)
    assert set(paced.runs) == {1}


def test_a_size_of_batches_that_was_measured_too_small_grows_with_what_runs_take(running, program):
    paced = Paced(program)
    calls = Calls(running, paced, replace(Paced.pace, batch_rows=2))
    clients = ClosedLoop(calls, clients=16, away_s=0.0)
    running.until(lambda: max(paced.runs[-3:], default=0) >= 4)
    clients.is_over = True
    running.until(lambda: calls.batcher.open_calls == 0)
    assert max(paced.runs[:12]) <= 2


def test_a_lone_client_is_never_made_to_wait(running, program):
    paced = Paced(program)
    calls = Calls(running, paced, Paced.pace)
    client = ClosedLoop(calls, clients=1, away_s=0.001)
    running.until(lambda: len(paced.runs) >= 12)
    client.is_over = True
    running.until(lambda: calls.batcher.open_calls == 0)

    waited_s = [began - asked for asked, began in zip(client.asked_s, paced.began_s, strict=False)]
    assert paced.runs == [1] * len(paced.runs)
    assert sorted(waited_s)[len(waited_s) // 2] < longest_wait_s(Paced.pace, 1.0) / 4


# -- where calls run --


def test_a_model_whose_runs_became_slow_leaves_the_loop_and_comes_back(
    serve_models, program, ask, monkeypatch
):
    pace = Pace(one_row_s=200e-6, inline_rows=1, batch_rows=8)
    server = serve_models(("m", program, pace))
    engine = server.models[0].engine
    whole = program.run
    threads = []

    def run(columns, outputs=None):
        threads.append(threading.current_thread().name)
        time.sleep(run.takes_s)
        return whole(columns, outputs)

    monkeypatch.setattr(program, "run", run)

    def second(takes_s, calls=20):
        threads.clear()
        run.takes_s = takes_s
        with server.client() as client:
            for _ in range(calls):
                assert client.request("POST", INFER, ask([1, 2])).answer().status == 200
        server.on_loop(lambda: engine.revisit(1.0, others_called=False))
        return {"m/1" in name for name in threads}

    assert second(2e-3) == {False}, "on the loop, where it was quick when it was measured"
    assert engine.inline_rows == 0
    assert second(2e-3) == {True}
    assert engine.inline_rows == 0
    assert second(0.0, calls=40) == {True}
    assert engine.inline_rows == 1
    assert second(0.0) == {False}


def test_a_size_that_always_cost_much_does_not_make_a_model_slow(
    serve_models, program, ask, monkeypatch
):
    """Trees cost most a row where there are a hundred: told by the mean, they seem slow there."""
    stretches = (Stretch(1, 20e-6, 120e-6), Stretch(4, 380e-6, 0.1e-6))
    pace = Pace(20e-6, inline_rows=1_000, batch_rows=1_000, row_s=0.5e-6, stretches=stretches)
    server = serve_models(("m", program, pace))
    engine = server.models[0].engine
    clock = Timed(monkeypatch, 380e-6, 0)
    whole = program.run
    program.run = lambda columns, outputs=None: clock.run(columns) or whole(columns, outputs)
    with server.client() as client:
        for _ in range(20):
            assert client.request("POST", INFER, ask(*[[1, 2]] * 4)).answer().status == 200
    server.on_loop(lambda: engine.revisit(1.0, others_called=False))
    assert engine.inline_rows == 1_000


def test_a_model_that_takes_the_loop_from_others_is_sent_to_its_thread_until_it_has_cooled(
    serve_models, program, ask
):
    pace = Pace(one_row_s=100e-6, inline_rows=1_000, batch_rows=8)
    server = serve_models(("m", program, pace))
    engine = server.models[0].engine

    def second(others_called):
        with server.client() as client:
            for _ in range(20):
                assert client.request("POST", INFER, ask([1, 2])).answer().status == 200
        # Those twenty runs took the whole of so short a time, or nearly nothing of a long one.
        passed_s = second.passed_s
        server.on_loop(lambda: engine.revisit(passed_s, others_called=others_called))
        return engine.placement.is_hot, engine.inline_rows

    whole = program.run
    program.run = lambda *a: time.sleep(150e-6) or whole(*a)
    second.passed_s = 0.003
    assert second(others_called=False) == (False, 1_000)
    assert second(others_called=True) == (True, 0)
    assert second(others_called=True) == (True, 0)
    second.passed_s = 100.0
    assert second(others_called=True) == (False, 1_000)


# -- on the loop, together --


class Turn:
    """Calls to an engine that runs on the loop, all in one turn of it."""

    def __init__(self, running, program, *, rows=64, batch_invariant=True, **limits):
        pace = Pace(one_row_s=1e-6, inline_rows=rows, batch_rows=rows)
        self.running = running
        self.engine = Engine(
            program, pace, Limits(**limits), running.loop,
            by=BY, held=BufferBudget(1 << 30), batch_invariant=batch_invariant,
        )  # fmt: skip
        self.outcomes: list = []

    def take(self, *requests, gone=()):
        def go():
            for place, (x, outputs) in enumerate(requests):
                self.outcomes.append(None)

                cancel = self.engine.run(
                    {"x": np.asarray(x, np.float64)}, len(x), outputs, 10.0,
                    lambda outcome, place=place: self.outcomes.__setitem__(place, bare(outcome)),
                )  # fmt: skip
                if place in gone:
                    cancel()

        self.running.on_loop(go)
        wanted = [place for place in range(len(requests)) if place not in gone]
        self.running.until(lambda: all(self.outcomes[place] is not None for place in wanted))
        return self.outcomes


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(
        st.tuples(
            st.integers(1, 6),
            st.sampled_from([None, ("twice",), ("sum",), ("sum", "twice"), ("twice", "sum")]),
        ),
        min_size=1,
        max_size=25,
    ),
    most=st.integers(6, 40),
)
def test_callers_of_one_turn_of_the_loop_get_their_own_rows_and_outputs(running, fake, sizes, most):
    program = fake()
    requests = [(rows(100 * place, count), outputs) for place, (count, outputs) in enumerate(sizes)]
    found = Turn(running, program, rows=most).take(*requests)
    for (x, outputs), outcome in zip(requests, found, strict=True):
        x = np.asarray(x, np.float64)
        expected = {"twice": x * 2, "sum": x.sum(axis=1)}
        assert list(outcome) == list(outputs or expected)
        for name, array in outcome.items():
            np.testing.assert_array_equal(array, expected[name])
    assert sum(program.runs) == sum(count for count, _ in sizes)
    assert max(program.runs) <= most, "the loop is held up no longer than by one call"


def test_they_run_together_and_in_as_few_runs_as_may_be(running, program):
    Turn(running, program, rows=8).take(*[([[1, 2]] * 3, None)] * 5)
    assert program.runs == [6, 6, 3]


@pytest.mark.parametrize("how", [{"batch_invariant": False}, {"batching": "never"}])
def test_where_company_may_change_the_bits_or_is_not_wanted_each_runs_alone(running, program, how):
    Turn(running, program, **how).take(*[([[1, 2]], None)] * 5)
    assert program.runs == [1] * 5


def test_runs_are_counted_once_each_also_over_a_revisit(running, program):
    turn = Turn(running, program, rows=8)
    turn.take(*[([[1, 2]] * 3, None)] * 5)
    assert (turn.engine.new_runs(), turn.engine.new_runs()) == (3, 0)
    turn.take(([[1, 2]], None))
    turn.engine.revisit(1.0, others_called=False)
    turn.take(([[1, 2]], None))
    assert turn.engine.new_runs() == 2


def test_who_has_gone_before_the_run_is_not_run(running, program):
    turn = Turn(running, program)
    turn.take(*[([[1, 2]], None)] * 3, gone={0, 2})
    assert program.runs == [1]
    assert turn.outcomes[0] is None


def test_who_is_late_when_the_loop_comes_to_it_is_told_so_and_not_run(running, program):
    engine = Turn(running, program).engine
    told = {}

    def go():
        for allowed_s in (10.0, 0.005, 5.0, 0.0, -1.0):
            columns = {"x": np.full((1, 2), allowed_s)}
            engine.run(columns, 1, None, allowed_s, partial(told.__setitem__, allowed_s))
        time.sleep(0.006)  # the loop does other work before it comes to them

    running.on_loop(go)
    running.until(lambda: len(told) == 5)
    assert all(isinstance(told[allowed_s], TimedOut) for allowed_s in (0.005, 0.0, -1.0))
    np.testing.assert_array_equal(told[10.0].outputs["sum"], [20.0])
    np.testing.assert_array_equal(told[5.0].outputs["sum"], [10.0])
    assert program.runs == [2]


@pytest.mark.parametrize("how", [{}, {"batch_invariant": False}])
def test_who_is_late_already_when_it_comes_is_not_run_on_the_loop(running, program, how):
    engine = Turn(running, program, **how).engine
    told = []
    running.on_loop(lambda: engine.run({"x": np.ones((1, 2))}, 1, None, 0.0, told.append))
    assert isinstance(told[0], TimedOut)
    assert program.runs == []


def test_a_poisonous_row_on_the_loop_fails_its_own_caller_alone(running, program, caplog):
    program.poison = 7.0
    first, poisoned, last = Turn(running, program).take(
        ([[1, 1]], None), ([[7, 7]], None), ([[3, 3]], None)
    )
    np.testing.assert_array_equal(first["twice"], [[2, 2]])
    np.testing.assert_array_equal(last["twice"], [[6, 6]])
    assert isinstance(poisoned, ModelFailed)
    assert "secret" in caplog.text


def test_an_answer_that_cannot_be_told_takes_no_other_with_it(running, program):
    told = []

    def deliver(outcome):
        told.append(outcome)
        if len(told) <= 2:
            raise RuntimeError  # neither the answer, nor that it failed

    engine = Turn(running, program).engine
    x = np.ones((1, 2))

    def go():
        for _ in range(2):
            engine.run({"x": x}, 1, None, 10.0, deliver)

    running.on_loop(go)
    running.until(lambda: len(told) == 3)
    np.testing.assert_array_equal(told[2].outputs["twice"], [[2, 2]])


def test_what_was_taken_is_run_before_the_engine_is_let_go_of(running, program):
    turn = Turn(running, program)
    order = []

    def go():
        turn.engine.run({"x": np.ones((1, 2))}, 1, None, 10.0, lambda _: order.append("answered"))
        assert turn.engine.open_calls == 1
        turn.engine.stop(lambda: order.append("ended"))

    running.on_loop(go)
    running.until(lambda: len(order) == 2)
    assert order == ["answered", "ended"]
    assert turn.engine.open_calls == 0


# -- failures --


def test_a_poisonous_row_fails_its_own_caller_and_nobody_else(running, program, thread, caplog):
    program.poison = 7.0
    calls = Calls(running, program, thread)
    held(calls, program)
    calls.submit(([[1, 1]], None), ([[7, 7]], None), ([[3, 3]], None))
    program.gate.set()
    _, first, poisoned, last = calls.all()
    np.testing.assert_array_equal(first["twice"], [[2, 2]])
    np.testing.assert_array_equal(last["twice"], [[6, 6]])
    assert isinstance(poisoned, ModelFailed)
    assert "secret" not in poisoned.message + poisoned.hint
    assert "secret" in caplog.text


def test_what_a_program_says_in_the_words_of_this_project_is_passed_on(running, program, thread):
    program.poison, program.problem = 7.0, Invalid("x must not be 7", hint="send another")
    calls = Calls(running, program, thread)
    calls.submit(([[7, 7]], None))
    assert calls.all()[0] is program.problem


def test_a_run_that_loses_rows_is_not_dealt_out_to_the_wrong_callers(
    running, program, thread, monkeypatch
):
    whole = program.run

    def lossy(columns, outputs=None):
        made = whole(columns, outputs)
        return {name: array[-1:] if len(array) > 2 else array for name, array in made.items()}

    monkeypatch.setattr(program, "run", lossy)
    calls = Calls(running, program, thread)
    held(calls, program)
    calls.submit(*[([[place, place]], None) for place in range(3)])
    program.gate.set()
    for place, outcome in enumerate(calls.all()[1:]):
        np.testing.assert_array_equal(outcome["twice"], [[2 * place, 2 * place]])


def test_callers_whose_rows_differ_in_length_are_run_apart(running, program, thread):
    calls = Calls(running, program, thread)
    held(calls, program)
    calls.submit(([[1, 1]], ("sum",)), ([[1, 1, 1]], ("sum",)), ([[2, 2]], ("sum",)))
    program.gate.set()
    assert [outcome["sum"].tolist() for outcome in calls.all()[1:]] == [[2], [3], [4]]


def test_the_thread_outlives_a_program_that_answers_nonsense(
    running, program, thread, monkeypatch, caplog
):
    calls = Calls(running, program, thread)
    held(calls, program)
    monkeypatch.setattr(program, "run", lambda columns, outputs=None: {"twice": 5})
    calls.submit(([[1, 1]], None), ([[2, 2]], None))
    program.gate.set()
    assert all(isinstance(outcome, ModelFailed) for outcome in calls.all()[1:])
    monkeypatch.undo()
    calls.submit(([[3, 3]], ("sum",)))
    np.testing.assert_array_equal(calls.all()[-1]["sum"], [6])


def test_an_answer_that_cannot_be_told_does_not_keep_its_mates_waiting(
    serve_models, program, thread, ask, monkeypatch, caplog
):
    whole = program.run

    def odd(columns, outputs=None):
        made = whole(columns, outputs)
        if outputs == ("sum",):
            made["sum"] = np.array([object()] * len(made["sum"]), object)
        return made

    monkeypatch.setattr(program, "run", odd)
    server = serve_models(("m", program, thread))
    with server.client() as first, server.client() as second:
        answer = first.request("POST", INFER, ask([1, 2], outputs=[{"name": "sum"}])).answer()
        assert answer.status == 500
        assert answer.json["error"].startswith("the model's answer cannot be told; ")
        assert second.request("POST", INFER, ask([1, 2])).answer().status == 200
    assert server.counted() == {200: 1, 500: 1}


@pytest.mark.parametrize("pace", ["inline", "thread"])
def test_what_a_failing_program_says_stays_in_the_log(
    serve_models, program, ask, pace, request, caplog
):
    program.poison = 7.0
    server = serve_models(("m", program, request.getfixturevalue(pace)))
    with caplog.at_level(logging.ERROR), server.client() as client:
        answer = client.request("POST", INFER, ask([7, 7])).answer()
        assert answer.status == 500
        told = f"the server's log has the reason under id {answer.headers['x-request-id']}"
        assert answer.json == {"error": f"the model failed; {told}"}
        assert client.request("POST", INFER, ask([1, 2])).answer().status == 200
    assert "/etc/passwd" in caplog.text


# -- the same through the socket --


def test_a_full_queue_is_said_with_when_to_come_back(serve_models, program, thread, ask):
    server = serve_models(("m", program, thread), max_queue_requests=1)
    program.gate.clear()
    with server.client() as first, server.client() as second:
        first.request("POST", INFER, ask([1, 2]))
        assert program.running.wait(10)
        answer = second.request("POST", INFER, ask([1, 2])).answer()
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert answer.json["error"].startswith("m/1 has 1 requests waiting")
        program.gate.set()
        assert first.answer().status == 200
    assert server.counted() == {200: 1, 429: 1}


def test_a_request_may_ask_for_a_shorter_deadline_and_not_for_a_longer(
    serve_models, program, thread, ask
):
    server = serve_models(("m", program, thread), deadline_s=0.2)
    program.gate.clear()
    with server.client() as hurried, server.client() as patient:
        hurried.request("POST", INFER, ask([1, 2]), "X-Request-Timeout-Ms: 50\r\n")
        patient.request("POST", INFER, ask([1, 2]), "X-Request-Timeout-Ms: 60000\r\n")
        assert "within 50 ms" in hurried.answer().json["error"]
        answer = patient.answer()
        assert (answer.status, "within 200 ms" in answer.json["error"]) == (504, True)
        program.gate.set()
    assert server.counted() == {504: 2}


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "soon", "9999999999", ""])
@pytest.mark.parametrize("pace", ["inline", "thread"])
def test_a_deadline_that_is_no_number_of_milliseconds_is_refused(
    serve_models, program, ask, pace, value, request
):
    server = serve_models(("m", program, request.getfixturevalue(pace)))
    with server.client() as client:
        headers = f"X-Request-Timeout-Ms: {value}\r\n"
        answer = client.request("POST", INFER, ask([1, 2]), headers).answer()
    assert answer.status == 400
    assert answer.json["error"].startswith(
        "header X-Request-Timeout-Ms is not a whole number of milliseconds from 1 to 999999999; "
    )


def test_the_longest_deadline_that_may_be_said_is_taken(serve_models, program, inline, ask):
    server = serve_models(("m", program, inline))
    with server.client() as client:
        headers = "X-Request-Timeout-Ms: 999999999\r\n"
        assert client.request("POST", INFER, ask([1, 2]), headers).answer().status == 200


def test_a_client_that_goes_takes_its_call_out_of_the_queue(serve_models, program, thread, ask):
    server = serve_models(("m", program, thread))
    program.gate.clear()
    with server.client() as stays:
        stays.request("POST", INFER, ask([1, 2]))
        assert program.running.wait(10)
        with server.client() as goes:
            goes.request("POST", INFER, ask([1, 2], [3, 4]))
            server.until(lambda: server.models[0].engine.batcher.open_calls == 2)
        server.until(lambda: server.models[0].engine.batcher.open_calls == 1)
        program.gate.set()
        assert stays.answer().status == 200
        assert stays.request("POST", INFER, ask([1, 2])).answer().status == 200
    assert program.runs == [1, 1]
    assert server.counted() == {200: 2, 499: 1}
    assert server.totals()[1].rows == 2


# -- how fast a program is --


class Timed:
    """Takes a fixed time per run and per row, on a clock of its own."""

    name = "timed"

    def __init__(self, monkeypatch, run_s, row_s):
        self.now = 0.0
        self.cost = (run_s, row_s)
        monkeypatch.setattr("bascule.serving.execution.engine.time.perf_counter", lambda: self.now)

    def run(self, columns):
        run_s, row_s = self.cost
        self.now += run_s + row_s * len(columns["x"])
        return {}


EXAMPLE = {"x": np.ones((3, 2))}


def test_a_cheap_program_runs_inline_for_as_many_rows_as_are_cheap(monkeypatch):
    pace = measure_pace(Timed(monkeypatch, 10e-6, 1e-6), EXAMPLE, Limits())
    assert pace.one_row_s == pytest.approx(11e-6)
    assert 256 <= pace.inline_rows <= 500


@pytest.mark.parametrize(("run_s", "is_inline"), [(490e-6, True), (510e-6, False)])
def test_the_cost_of_one_row_decides_between_loop_and_thread(monkeypatch, run_s, is_inline):
    pace = measure_pace(Timed(monkeypatch, run_s, 1e-9), EXAMPLE, Limits())
    assert (pace.inline_rows > 0) == is_inline


def test_batches_grow_while_that_pays_and_no_further_than_the_limit(monkeypatch):
    paid = measure_pace(Timed(monkeypatch, 1e-3, 1e-6), EXAMPLE, Limits(max_batch_rows=64))
    assert paid.batch_rows == 64
    unpaid = measure_pace(Timed(monkeypatch, 1e-6, 1e-3), EXAMPLE, Limits())
    assert unpaid == Pace(pytest.approx(1.001e-3), 0, 1, pytest.approx(1e-3))


# -- what waits is bounded in bytes --

ROW_BYTES = BESIDE_CALL_BYTES + 16
"""Of a call of one row of two doubles."""


def empties(calls):
    calls.running.until(lambda: calls.account.bytes == 0)


def test_what_waits_is_bounded_in_bytes_and_who_finds_no_room_is_told_so(running, program, thread):
    calls = Calls(running, program, thread, max_held_bytes=3 * ROW_BYTES)
    held(calls, program)
    calls.submit((rows(1, 1), None), (rows(2, 1), None))
    assert calls.account.bytes == 3 * ROW_BYTES
    with pytest.raises(Overloaded) as refused:
        calls.submit((rows(3, 1), None))
    calls.outcomes.pop()
    assert refused.value.message == (
        f"the request takes {ROW_BYTES} bytes, and requests that wait for m/1 or elsewhere "
        f"already take {3 * ROW_BYTES} of at most {3 * ROW_BYTES} bytes"
    )
    assert "retry later, with fewer rows" in refused.value.hint
    assert refused.value.facts["retry_after_s"] >= 1
    program.gate.set()
    assert all("sum" in outcome for outcome in calls.all())
    empties(calls)
    calls.submit((rows(3, 1), None))
    calls.all()
    empties(calls)


def test_whoever_comes_to_an_idle_thread_is_run_however_much_is_held(running, program, thread):
    calls = Calls(running, program, thread, account=BufferBudget(1))
    calls.account.bytes = 1_000  # of others
    for turn in range(3):
        calls.submit((rows(turn, 100), None))
        assert "sum" in calls.all()[-1]
        running.until(lambda: calls.account.bytes == 1_000)


def test_a_call_that_was_given_up_counts_for_as_long_as_its_rows_are_kept(running, program, thread):
    calls = Calls(running, program, thread, max_held_bytes=3 * ROW_BYTES)
    held(calls, program)
    (gone,) = calls.submit((rows(1, 1), None))
    running.on_loop(gone.cancel)
    calls.submit((rows(2, 1), None), deadline_s=0.01)
    running.until(lambda: isinstance(calls.outcomes[2], TimedOut))
    assert calls.account.bytes == 3 * ROW_BYTES
    with pytest.raises(Overloaded):
        calls.submit((rows(3, 1), None))
    program.gate.set()
    empties(calls)
    assert program.runs == [1]


def test_a_line_of_calls_that_were_all_given_up_is_bounded_too(running, program, thread):
    calls = Calls(running, program, thread, max_queue_requests=2)
    program.gate.clear()
    (first,) = calls.submit((rows(0, 1), None))
    assert program.running.wait(10)
    running.on_loop(first.cancel)
    for turn in range(8):
        (gone,) = calls.submit((rows(turn, 1), None))
        running.on_loop(gone.cancel)
    with pytest.raises(Overloaded):
        calls.submit((rows(9, 1), None))
    program.gate.set()
    empties(calls)


@pytest.mark.parametrize("how", ["fails", "is unloaded", "is unloaded without a call"])
def test_nothing_is_held_any_more_of_the_calls_of_a_model_that(running, program, thread, how):
    calls = Calls(running, program, thread)
    ended = threading.Event()
    if how != "is unloaded without a call":
        held(calls, program)
        calls.submit(*[(rows(turn, 1), None) for turn in range(5)])
        assert calls.account.bytes == 6 * ROW_BYTES
    if how == "fails":
        program.poison = 0.5
    else:
        running.on_loop(lambda: calls.batcher.stop(ended.set))
    program.gate.set()
    calls.all()
    empties(calls)
    assert how == "fails" or ended.wait(10)


def test_texts_count_with_what_they_take_and_not_as_addresses(running, program, thread):
    calls = Calls(running, program, thread)

    def queued():
        column = np.array([["x" * 5_000, None]], object)
        calls.batcher.submit(
            Job({"x": column}, 1, None, lambda outcome: calls.outcomes.append(bare(outcome))), 10.0
        )
        return calls.account.bytes

    program.gate.clear()
    assert 5_000 + BESIDE_CALL_BYTES < running.on_loop(queued) < 5_200 + BESIDE_CALL_BYTES
    program.gate.set()
    empties(calls)


def test_an_idle_thread_does_not_keep_the_rows_of_its_last_run(running, program, thread):
    calls = Calls(running, program, thread)
    (job,) = calls.submit((rows(0, 1), None))
    kept = weakref.ref(job.columns["x"])
    del job
    calls.all()
    running.until(lambda: kept() is None)


# -- runs that do not end --


@pytest.fixture
def overdue(running, fake, thread):
    """A run that goes on after the deadline of its caller, and a call that waits behind it."""
    program = fake()
    calls = Calls(running, program, thread, deadline_s=0.1)
    held(calls, program, deadline_s=0.1)
    calls.submit((rows(1, 1), None))
    yield calls, program
    program.gate.set()
    running.on_loop(calls.batcher.stop)


def test_a_run_that_goes_on_after_its_deadline_is_interrupted(running, overdue):
    calls, program = overdue
    program.interrupt = program.gate.set
    assert not running.on_loop(calls.batcher.end_overdue)
    assert not program.gate.is_set()
    time.sleep(0.2)
    assert not running.on_loop(calls.batcher.end_overdue)
    assert program.gate.is_set()


def test_a_run_goes_on_for_a_caller_that_may_wait_for_longer_than_others(running, fake, thread):
    program, bounds = fake(), []
    program.bound_runs = bounds.append
    calls = Calls(running, program, thread, deadline_s=0.1)
    held(calls, program, deadline_s=60.0)
    time.sleep(0.2)
    program.interrupt = program.gate.set
    assert not running.on_loop(calls.batcher.end_overdue)
    assert not program.gate.is_set()
    program.gate.set()
    calls.all()
    running.until(lambda: len(bounds) == 3)
    assert bounds[0] == bounds[2] == 1.1
    assert 60.0 < bounds[1] <= 61.0
    running.on_loop(calls.batcher.stop)


def test_who_waits_goes_before_who_does_not_and_never_with_it(running, fake, thread):
    program, order = fake(), []
    calls = Calls(running, program, thread, deadline_s=10.0)
    plain = program.run
    program.run = lambda columns, outputs=None: (
        order.append(columns["x"][:, 0].tolist()) or plain(columns, outputs)
    )
    held(calls, program)
    calls.submit((rows(20, 1), None), (rows(30, 1), None), deadline_s=60.0)
    calls.submit((rows(1, 1), None), (rows(2, 1), None))
    program.gate.set()
    calls.all()
    assert order == [[0.5], [1.0, 2.0], [20.0], [30.0]]
    running.on_loop(calls.batcher.stop)


def test_who_waits_is_not_refused_for_those_who_go_after(running, program):
    pace = Pace(one_row_s=0.1, row_s=0.1, inline_rows=0, batch_rows=4)
    calls = Calls(running, program, pace, deadline_s=10.0)
    held(calls, program)
    calls.submit((rows(20, 400), None), deadline_s=60.0)  # measured before: 40 s
    calls.submit((rows(1, 1), None), deadline_s=1.0)
    program.gate.set()
    assert all(isinstance(outcome, dict) for outcome in calls.all())
    assert program.runs == [1, 1, 400]
    running.on_loop(calls.batcher.stop)


def test_who_goes_after_and_is_given_up_leaves_though_others_wait(running, fake, thread):
    program, last = fake(), threading.Event()
    calls = Calls(running, program, thread, batching="never", deadline_s=10.0)
    plain = program.run
    program.run = lambda columns, outputs=None: (
        plain(columns, outputs) if columns["x"][0, 0] != 3.0 or last.wait(10) else None
    )
    held(calls, program)
    (gone,) = calls.submit((rows(1, 100), None), deadline_s=60.0)
    running.on_loop(gone.cancel)
    calls.outcomes.pop()
    calls.submit((rows(2, 1), None), (rows(3, 1), None))
    program.gate.set()
    running.until(lambda: calls.account.bytes == ROW_BYTES)
    last.set()
    calls.all()
    running.on_loop(calls.batcher.stop)


def test_a_run_that_cannot_be_ended_has_its_model_stuck_until_it_ends(
    running, overdue, monkeypatch
):
    calls, program = overdue
    time.sleep(0.2)
    assert not running.on_loop(calls.batcher.end_overdue)
    calls.submit((rows(2, 1), None), deadline_s=60)
    monkeypatch.setattr("bascule.serving.execution.engine.STUCK_S", 0.0)
    assert running.on_loop(calls.batcher.end_overdue)

    running.until(lambda: calls.outcomes[-1] is not None)
    assert isinstance(calls.outcomes[-1], Unavailable)
    with pytest.raises(Unavailable, match="stuck in a run that does not end"):
        calls.submit((rows(3, 1), None))
    calls.outcomes.pop()
    program.gate.set()
    running.until(lambda: not calls.batcher.end_overdue() and calls.batcher._run is None)
    calls.submit((rows(4, 1), None))
    assert not isinstance(calls.all()[-1], Unavailable)


def test_batch_mates_of_a_run_that_was_ended_are_run_alone_only_where_they_wait(fake):
    program = fake()
    program.poison, program.problem = 7, TimedOut("it was ended")
    jobs = [Job({"x": np.full((1, 2), x)}, 1, None, lambda _: None) for x in (7.0, 1.0, 2.0)]
    jobs[0].settled = jobs[1].settled = True
    late, also_late, answered = run_together(program, jobs, BY)
    assert program.runs == [3, 1]
    assert isinstance(late, TimedOut)
    assert isinstance(also_late, TimedOut)
    assert answered.outputs["sum"].tolist() == [4.0]


def test_batch_mates_are_answered_each_by_what_it_asked(fake):
    """A version runs the calls of its endpoint and its own together."""
    arm = BY._replace(endpoint="e", arm="candidate")
    program = fake()

    def jobs():
        column = {"x": np.full((1, 2), 1.0)}
        return [Job(column, 1, None, lambda _: None, by) for by in (None, arm, None)]

    assert [one.by for one in run_together(program, jobs(), BY)] == [BY, arm, BY]
    assert run_together(program, jobs()[1:2], BY)[0].by is arm
    assert program.runs == [3, 1]


def test_a_call_that_the_loop_could_not_finish_is_made_on_the_thread(running, fake, inline):
    program, outcomes = fake(), []
    engine = Engine(program, inline, Limits(), running.loop, by=BY, held=BufferBudget(1 << 30))
    plain = program.run

    def endless(columns, outputs=None):
        program.run = plain
        engine.interrupt_inline()  # as the watchdog does
        raise TimedOut("it was ended")

    program.run = endless
    x = {"x": np.full((1, 2), 7.0)}
    cancel = running.on_loop(lambda: engine.run(x, 1, None, 10.0, outcomes.append))
    assert cancel is not None
    running.until(lambda: outcomes)
    assert outcomes[0].outputs["sum"].tolist() == [14.0]
    assert engine.inline_rows == 0
    running.on_loop(lambda: engine.stop(lambda: None))
