"""Work that waits for a server: tried again, bounded by caller, kept for its time."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from tests.controls import Services, asking, control_app
from tests.homes import jobs_in
from tests.waiting import until

from bascule.core import Conflict, Gone, Invalid, ModelFailed, Overloaded, Unavailable
from bascule.jobs import CALLBACK, INFERENCE, JobRunner, Kind, Kinds, Payloads, Task

NOW = datetime.now(UTC)


def asked(**more):
    given = {"model": "slow", "callback": "", "body": "b", **more}
    return Task(kind=INFERENCE, input=given, by="ada")


class Work:
    """Stands in for what a server is asked: what each attempt raises, then a result."""

    def __init__(self, *problems):
        self.problems, self.attempts, self.is_open = [*problems], 0, threading.Event()
        self.is_open.set()

    def answer(self, take=lambda _: None):
        self.attempts += 1
        self.is_open.wait(30)
        if self.problems:
            raise self.problems.pop(0)
        return {"result": {"file": "b.1", "headers": {}, "bytes": 2}}

    def stop(self, within_s):
        self.problems.insert(0, Unavailable("cut"))
        self.is_open.set()


KIND = Kind(name=INFERENCE, run=None, pause_s=0.2, retries=2, is_private=True)
TELL = Kind(name=CALLBACK, run=None, pause_s=0.2)


@pytest.fixture
def running(tmp_path):
    """`running(work)`: a runner that turns; with `serves=` whether its server has the model."""
    ended, threads = threading.Event(), []

    def make(work, serves=lambda job: job.kind == INFERENCE):
        kinds = Kinds({INFERENCE: f"{__name__}:KIND", CALLBACK: f"{__name__}:TELL"})
        catalogue = jobs_in(tmp_path / "home").catalogue
        made = JobRunner(catalogue, kinds, lambda *_: work, serves=serves)
        threads.append(threading.Thread(target=made.run, args=(ended,)))
        threads[-1].start()
        return made

    yield make
    ended.set()
    for thread in threads:
        thread.join()


def test_what_is_refused_for_now_is_tried_again_and_says_why(running):
    work = Work(Overloaded("too many"), Unavailable("away"))
    runner = running(work)
    job = runner.submit(asked())
    until(lambda: runner.get(job.id).is_ended)
    assert (runner.get(job.id).state, work.attempts) == ("done", 3)
    assert "too many" in runner.log(job.id)


@pytest.mark.parametrize(
    ("problems", "attempts"),
    [([Invalid("no column")], 1), ([ModelFailed("it raised")], 1), ([Unavailable("away")] * 9, 3)],
    ids=["a mistake", "an error of the model", "away for too long"],
)  # fmt: skip
def test_what_does_not_pass_fails(running, problems, attempts):
    work = Work(*problems)
    runner = running(work)
    job = runner.submit(asked())
    until(lambda: runner.get(job.id).is_ended)
    assert (runner.get(job.id).state, work.attempts) == ("failed", attempts)


def test_it_waits_for_a_server_that_serves_its_model(running):
    work, served = Work(), threading.Event()
    runner = running(work, serves=lambda _: served.is_set())
    job = runner.submit(asked())
    runner.turn()
    assert runner.get(job.id).state == "queued"
    served.set()
    until(lambda: runner.get(job.id).state == "done")


def test_one_that_is_cancelled_while_it_waits_is_not_tried_again(running):
    work = Work()
    work.is_open.clear()
    runner = running(work)
    job = runner.submit(asked())
    until(lambda: work.attempts)
    runner.command(job.id, "cancel", by="ada")
    until(lambda: runner.get(job.id).is_ended)
    assert (runner.get(job.id).state, work.attempts) == ("cancelled", 1)


def test_the_end_queues_one_message_where_an_address_is_given(running):
    runner = running(Work(Invalid("no")))
    url = "https://hooks.example.com/"
    plain, told = (runner.submit(asked(callback=one)) for one in ("", url))
    until(lambda: all(runner.get(job.id).is_ended for job in (plain, told)))
    (message,) = runner.find(kind=CALLBACK)
    state = runner.get(told.id).state
    assert message.input == {"job": told.id, "model": "slow", "state": state, "url": url}


def test_a_caller_has_a_bound_and_no_other_is_counted(running):
    work = Work()
    work.is_open.clear()
    runner = running(work)
    for _ in range(2):
        runner.submit(asked(), 2)
    with pytest.raises(Overloaded) as refused:
        runner.submit(asked(), 2)
    assert refused.value.facts["retry_after_s"] == 10
    runner.submit(replace(asked(), by="bob"), 2)
    work.is_open.set()
    until(lambda: all(job.is_ended for job in runner.find()))


def test_callbacks_that_wait_have_a_bound(tmp_path, payloads, monkeypatch):
    monkeypatch.setattr("bascule.control.api.routes.inferences._MAX_CALLBACKS", 1)
    kinds = Kinds({INFERENCE: f"{__name__}:KIND", CALLBACK: f"{__name__}:TELL"})
    runner = JobRunner(jobs_in(tmp_path / "home").catalogue, kinds, Work, payloads=payloads)
    url, serves_it = "https://hooks.example.com/", Services(SimpleNamespace(model="slow"))
    app = control_app(serves_it, None, None, jobs=runner, callbacks=[url])
    with asking(app) as client:

        def submitted(**query):
            path = "/api/v1/models/slow/inferences"
            return client.post(path, content=b"{}", params=query).status_code

        assert submitted(callback=url) == 202
        runner.submit(Task(kind=CALLBACK, input={}))
        assert submitted(callback=url) == 429
        assert submitted() == 202


@pytest.fixture
def payloads(tmp_path):
    return Payloads(tmp_path / "deferred", timedelta(hours=1))


def test_an_answer_is_kept_for_its_time_and_its_job_says_so_after(running, payloads):
    runner = running(Work())
    job = runner.submit(asked(body=payloads.put(b"{}")))
    with pytest.raises(Conflict):
        payloads.answer_of(job, NOW)
    until(lambda: runner.get(job.id).is_ended)
    job = runner.get(job.id)
    (payloads.folder / "b.1").write_bytes(b"42")
    assert payloads.answer_of(job, NOW).read_bytes() == b"42"
    with pytest.raises(Gone):
        payloads.answer_of(job, job.ended_at + timedelta(hours=1))
    (payloads.folder / "b.1").unlink()
    with pytest.raises(Gone):
        payloads.answer_of(job, NOW)


def test_a_sweep_deletes_what_is_old_alone_also_beside_another_sweep(payloads):
    payloads.sweep()
    old, new = payloads.put(b"old"), payloads.put(b"new")
    os.utime(payloads.folder / old, (0, 0))
    payloads.sweep()
    payloads.sweep()
    assert [file.name for file in payloads.folder.iterdir()] == [new]


def test_no_request_is_kept_beyond_the_bound(payloads, monkeypatch):
    monkeypatch.setattr("bascule.jobs.deferred.MAX_KEPT_BYTES", 2)
    payloads.put(b"123")
    with pytest.raises(Overloaded):
        payloads.put(b"4")
