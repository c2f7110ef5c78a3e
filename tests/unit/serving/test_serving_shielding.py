"""A model with a policy, through the socket: who answers, and what is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bascule.core.errors import Overloaded, Unavailable
from bascule.serving.execution.resilience import Closed, ResiliencePolicy
from bascule.serving.execution.resilient import ResilientPredictor

INFER = "/v2/models/m/infer"
ROW = [7, 7]


class Shielded:
    """m/2 with a policy beside m/1, on a clock that the test moves."""

    def __init__(self, serve_models, programs, paces, policy, **limits):
        self.programs = programs
        self.server = serve_models(
            ("m/2", programs[0], paces[0]), ("m/1", programs[1], paces[1]), **limits
        )
        self.first, self.second = self.server.models
        self.now_s = 0.0

        def find(reference):
            return {"m/1": self.second, "m/2": self.first}.get(reference)

        resilient = ResilientPredictor(self.first, policy, find, self.server.loop)
        real_s = resilient.now_s
        resilient.now_s = lambda: real_s() + self.now_s
        self.resilient = resilient
        self.server.serve(resilient, self.second)

    def ask(self, body, headers=""):
        with self.server.client() as client:
            return client.request("POST", INFER, body, headers).answer()

    def counted(self):
        total = self.server.totals()[1]
        return total.by_status, total.failures, total.fallbacks


@pytest.fixture
def shielded(serve_models, fake, inline):
    def make(policy, paces=None, **limits):
        programs = [fake(), fake()]
        programs[0].problem = ValueError("it failed")
        return Shielded(serve_models, programs, paces or (inline, inline), policy, **limits)

    return make


def version(answer):
    return answer.status, answer.json.get("model_version")


@pytest.mark.parametrize("pace", ["inline", "thread"])
def test_the_fallback_answers_what_the_model_failed_and_says_so(shielded, ask, pace, request):
    paces = (request.getfixturevalue(pace),) * 2
    models = shielded(ResiliencePolicy(fallback="m/1"), paces)
    models.programs[0].poison = 7.0
    assert version(models.ask(ask([1, 2]))) == (200, "2")
    answer = models.ask(ask(ROW, [1, 2], outputs=[{"name": "sum"}]))
    assert version(answer) == (200, "1")
    assert [(o["name"], o["data"]) for o in answer.json["outputs"]] == [("sum", [14, 3])]
    assert models.counted() == ({200: 2}, 1, 1)
    assert models.server.totals()[1].rows == 3


@pytest.mark.parametrize("raw", [True, False])
def test_over_grpc_too_the_answer_is_in_the_name_of_who_gave_it(
    shielded, grpc_client, ask_grpc, raw
):
    models = shielded(ResiliencePolicy(fallback="m/1"))
    models.programs[0].poison = 7.0
    client = grpc_client(models.server)

    def version_of(*rows):
        request = ask_grpc(*rows, raw=raw, id="42")
        request.model_name = "m"
        told = client.infer(request)
        assert (told.model_name, told.id) == ("m", "42")
        assert [output.name for output in told.outputs] == ["twice", "sum"]
        return told.model_version

    # One shape of message after another: it is known from the second on.
    assert [version_of(row) for row in ([1, 2], ROW, [3, 4], ROW)] == ["2", "1", "2", "1"]


def test_a_fallback_that_reads_other_dtypes_gets_the_rows_in_its_own(shielded, ask, monkeypatch):
    models = shielded(ResiliencePolicy(fallback="m/1"))
    models.programs[0].poison = 7.0
    seen = []
    whole = models.programs[1].run
    (field,) = models.second.program.inputs
    from bascule.core.fields import DType

    narrow = replace(field, dtype=DType.FP32)
    models.second.program = models.second.program._replace(inputs=(narrow,))
    monkeypatch.setattr(
        models.programs[1],
        "run",
        lambda columns, outputs=None: seen.append(columns["x"].dtype) or whole(columns, outputs),
    )
    models.server.on_loop(lambda: setattr(models.second.engine, "program", models.programs[1]))
    assert version(models.ask(ask(ROW))) == (200, "1")
    assert seen == [np.float32]


def test_where_the_fallback_fails_too_the_failure_is_that_of_the_model(shielded, ask, caplog):
    models = shielded(ResiliencePolicy(fallback="m/1"))
    models.programs[0].poison = models.programs[1].poison = 7.0
    assert models.ask(ask(ROW)).status == 500
    assert models.counted() == ({500: 1}, 1, 0)


@pytest.mark.parametrize("fallback", ["", "gone/1", "m/2"])
def test_without_a_fallback_that_is_there_the_failure_is_told(shielded, ask, fallback, caplog):
    models = shielded(ResiliencePolicy(fallback=fallback))
    models.programs[0].poison = 7.0
    assert models.ask(ask(ROW)).status == 500
    assert models.counted() == ({500: 1}, 1, 0)


def test_rows_that_are_refused_are_neither_a_failure_nor_for_the_fallback(shielded, ask):
    models = shielded(ResiliencePolicy(fallback="m/1", breaker_failures=1))
    assert models.ask(ask([1, 2, 3])).status == 400
    assert models.counted() == ({400: 1}, 0, 0)
    assert version(models.ask(ask([1, 2]))) == (200, "2")


def test_a_breaker_opens_holds_calls_back_and_closes_by_one_that_succeeds(shielded, ask, caplog):
    models = shielded(ResiliencePolicy(breaker_failures=2, breaker_open_s=30))
    program = models.programs[0]
    program.poison = 7.0
    assert [models.ask(ask(ROW)).status for _ in range(2)] == [500, 500]
    runs = len(program.runs)
    held_back = models.ask(ask([1, 2]))
    assert (held_back.status, held_back.headers["retry-after"]) == (503, "30")
    assert "failed 2 times in a row" in held_back.json["error"]
    assert len(program.runs) == runs, "it is not asked"

    models.now_s = 30.0
    assert models.ask(ask(ROW)).status == 500, "the one that is let through to see"
    assert models.ask(ask([1, 2])).status == 503
    models.now_s = 60.0
    assert models.ask(ask([1, 2])).status == 200
    assert models.ask(ask([1, 2])).status == 200
    assert models.resilient.breaker == Closed()
    assert models.counted() == ({200: 2, 500: 3, 503: 2}, 3, 0)
    told = [line for line in caplog.messages if line.startswith("the breaker")]
    assert told == ["the breaker of m/2 opens", "the breaker of m/2 closes"]


@pytest.mark.parametrize("how", ["refused at once", "refused later"])
def test_a_full_queue_neither_closes_the_breaker_nor_uses_up_its_probe(
    shielded, ask, monkeypatch, how, caplog
):
    models = shielded(ResiliencePolicy(breaker_failures=1, breaker_open_s=30))
    models.programs[0].poison = 7.0
    assert models.ask(ask(ROW)).status == 500
    opened = models.resilient.breaker
    models.now_s = 31.0

    def full(call, context, allowed_s, deliver):
        error = Overloaded("it is full", retry_after_s=1)
        if how == "refused at once":
            raise error
        return models.server.loop.call_soon(deliver, error).cancel

    with monkeypatch.context() as patch:
        patch.setattr(models.first, "answer", full)
        assert [models.ask(ask([1, 2])).status for _ in range(2)] == [429, 429]
    assert models.resilient.breaker == opened
    assert models.ask(ask([1, 2])).status == 200, "the probe that was given back"
    assert models.resilient.breaker == Closed()


def test_a_full_queue_does_not_end_a_row_of_failures(shielded, ask, monkeypatch, caplog):
    models = shielded(ResiliencePolicy(breaker_failures=2))
    models.programs[0].poison = 7.0

    def full(call, context, allowed_s, deliver):
        deliver(Overloaded("it is full", retry_after_s=1))

    assert models.ask(ask(ROW)).status == 500
    with monkeypatch.context() as patch:
        patch.setattr(models.first, "answer", full)
        assert models.ask(ask([1, 2])).status == 429
    assert [models.ask(ask(ROW)).status for _ in range(2)] == [500, 503]


def test_a_fallback_without_an_output_that_is_asked_for_leaves_the_failure(shielded, ask, caplog):
    """An extra, for example, of a bundle without calibration."""
    models = shielded(ResiliencePolicy(fallback="m/1"))
    models.programs[0].poison = 7.0
    (twice,) = (one for one in models.second.signature.outputs if one.name == "twice")
    models.second.signature = replace(models.second.signature, outputs=(twice,))

    assert version(models.ask(ask(ROW, outputs=[{"name": "twice"}]))) == (200, "1")
    assert models.ask(ask(ROW, outputs=[{"name": "sum"}])).status == 500
    assert models.programs[1].runs == [1], "it was not asked in vain"


def test_while_the_breaker_is_open_the_fallback_answers_everybody(shielded, ask, caplog):
    models = shielded(ResiliencePolicy(breaker_failures=1, breaker_open_s=30, fallback="m/1"))
    models.programs[0].poison = 7.0
    assert [version(models.ask(ask(ROW))) for _ in range(3)] == [(200, "1")] * 3
    assert models.programs[0].runs == [1]
    assert models.counted() == ({200: 3}, 1, 3)


def test_a_model_that_takes_too_long_leaves_time_for_its_fallback(shielded, ask, thread, inline):
    models = shielded(ResiliencePolicy(timeout_s=0.05, fallback="m/1"), (thread, inline))
    models.programs[0].gate.clear()
    assert version(models.ask(ask([1, 2]))) == (200, "1")
    models.programs[0].gate.set()
    assert models.counted() == ({200: 1}, 1, 1)


def test_the_callers_own_deadline_is_kept_whatever_the_policy_allows(shielded, ask, thread):
    models = shielded(ResiliencePolicy(timeout_s=60, fallback="m/1"), (thread, thread))
    models.programs[0].gate.clear()
    answer = models.ask(ask([1, 2]), "X-Request-Timeout-Ms: 50\r\n")
    models.programs[0].gate.set()
    assert answer.status == 504
    assert models.counted() == ({504: 1}, 0, 0)


def test_callers_in_a_hurry_do_not_open_the_breaker_for_the_others(shielded, ask, thread):
    models = shielded(ResiliencePolicy(breaker_failures=2), (thread, thread), deadline_s=0.3)
    models.programs[0].gate.clear()
    for _ in range(5):
        assert models.ask(ask([1, 2]), "X-Request-Timeout-Ms: 20\r\n").status == 504
    assert models.resilient.breaker == Closed()
    assert [models.ask(ask([1, 2])).status for _ in range(3)] == [504, 504, 503]
    models.programs[0].gate.set()
    assert models.counted() == ({504: 7, 503: 1}, 2, 0)


@pytest.mark.parametrize(("percent", "status"), [(100, 200), (0, 503)])
def test_a_call_whose_process_died_is_tried_once_more_where_the_budget_allows(
    shielded, ask, thread, percent, status
):
    models = shielded(ResiliencePolicy(retry_percent=percent), (thread, thread))
    program = models.programs[0]
    whole, deaths = program.run, [1]

    def run(columns, outputs=None):
        if deaths:
            deaths.pop()
            raise Unavailable("the process died")
        return whole(columns, outputs)

    models.server.on_loop(lambda: setattr(models.first.engine.batcher._program, "run", run))
    assert models.ask(ask([1, 2])).status == status
    assert models.counted() == ({status: 1}, 1, 0)


def test_rows_that_kill_again_and_again_use_the_budget_up(shielded, ask, thread):
    models = shielded(ResiliencePolicy(retry_percent=50), (thread, thread))
    program = models.programs[0]
    program.poison, program.problem = 7.0, Unavailable("the process died")
    assert [models.ask(ask(ROW)).status for _ in range(10)] == [503] * 10
    assert 10 + 5 <= len(program.runs) <= 10 + 6


def test_who_goes_while_the_fallback_runs_is_not_answered_and_counted_as_gone(
    shielded, ask, thread, inline
):
    models = shielded(ResiliencePolicy(fallback="m/1"), (inline, thread))
    models.programs[0].poison = 7.0
    models.programs[1].gate.clear()
    with models.server.client() as client:
        client.request("POST", INFER, ask(ROW))
        assert models.programs[1].running.wait(10)
    models.server.until(lambda: models.counted()[0] == {499: 1})
    models.programs[1].gate.set()
    models.server.until(lambda: models.second.open_calls == 0)
    assert models.counted() == ({499: 1}, 1, 0)


def test_who_goes_while_it_waits_for_the_fallback_is_not_computed(shielded, ask, thread, inline):
    """The model failed before its run returned, and its fallback has a queue."""
    models = shielded(ResiliencePolicy(fallback="m/1"), (inline, thread))
    # As of a program that is not batch-invariant: each call runs at once.
    models.server.on_loop(lambda: setattr(models.first.engine, "_gathers", False))
    models.programs[0].poison = 7.0
    models.programs[1].gate.clear()
    with models.server.client() as first:
        first.request("POST", INFER, ask(ROW))
        assert models.programs[1].running.wait(10)
        with models.server.client() as gone:
            gone.request("POST", INFER, ask(ROW, ROW))
            models.server.until(lambda: models.second.open_calls == 2)
        models.server.until(lambda: models.counted()[0] == {499: 1})
        assert models.server.on_loop(lambda: models.second.open_calls) == 1
        models.programs[1].gate.set()
        assert version(first.answer()) == (200, "1")
    assert models.programs[1].runs == [1]
