"""Work that waits for a server: tried again, bounded by caller, kept for its time."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from tests.controls import Services, asking, control_app
from tests.homes import jobs_in
from tests.stores import open_database
from tests.waiting import until

from bascule.core import Conflict, Gone, Invalid, ModelFailed, NotFound, Overloaded, Unavailable
from bascule.jobs import CALLBACK, INFERENCE, JobRunner, Jobs, Kind, Kinds, Payloads, Task
from bascule.kinds.deferred import Asking, payloads_of
from bascule.places import place_beside
from bascule.settings import load_settings

NOW = datetime.now(UTC)


def asked(**more):
    given = {"model": "slow", "callback": "", "body": "b", "bytes": 2, **more}
    return Task(kind=INFERENCE, input=given, by="ada")


class Work:
    """Stands in for what a server is asked: what each attempt raises, then a result."""

    def __init__(self, *problems):
        self.problems, self.attempts, self.is_open = [*problems], 0, threading.Event()
        self.is_open.set()

    def answer(self, take=lambda _: None):
        self.attempts += 1
        assert self.is_open.wait(30)
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

    def make(work, serves=lambda job: job.kind == INFERENCE, payloads=None):
        kinds = Kinds({INFERENCE: f"{__name__}:KIND", CALLBACK: f"{__name__}:TELL"})
        catalogue = jobs_in(tmp_path / "home").catalogue
        made = JobRunner(catalogue, kinds, lambda *_: work, serves=serves, payloads=payloads)
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


def test_a_caller_has_a_bound_and_no_other_is_counted(running, payloads):
    work, two = Work(), replace(payloads, max_key_requests=2)
    work.is_open.clear()
    runner = running(work)
    for _ in range(2):
        runner.submit(asked(), two)
    with pytest.raises(Overloaded, match=r"deferred.max_key_requests is 2, .* 3 ") as refused:
        runner.submit(asked(), two)
    assert refused.value.facts["retry_after_s"] == 10
    runner.submit(replace(asked(), by="bob"), two)
    work.is_open.set()
    until(lambda: all(job.is_ended for job in runner.find()))


@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_what_one_key_keeps_leaves_room_for_others_until_its_time_is_over(
    request, tmp_path, payloads, store
):
    url = store if store == "sqlite" else request.getfixturevalue("postgresql_url")
    jobs = Jobs(open_database(tmp_path / "home", url))
    ada, bob = (replace(asked(bytes=9 << 20), by=name) for name in ("ada", "bob"))
    within = replace(payloads, max_key_mb=60, max_mb=80)

    def kept(task):
        claim = jobs.claim(jobs.submit(task, within).id)
        jobs.end(claim, "done", result={"bytes": 9 << 20})

    kept(ada)
    kept(ada)  # 18 and 18 MB, and the third may have 25
    with pytest.raises(Overloaded, match=r"deferred.max_key_mb is 60, .* 61 "):
        jobs.submit(ada, within)
    kept(bob)  # 54 of all
    with pytest.raises(Overloaded, match=r"deferred.max_mb is 78, .* 79 "):
        jobs.submit(bob, replace(within, max_mb=78))
    jobs.submit(ada, replace(within, kept=timedelta(0)))


def test_callers_take_turns(tmp_path):
    jobs = jobs_in(tmp_path / "home")
    for name in ("ada", "ada", "ada", "bob", "eve", "bob"):
        jobs.submit(replace(asked(), by=name))
    assert [job.by for job in jobs.waiting()] == ["ada", "bob", "eve", "ada", "bob", "ada"]


def test_a_model_is_asked_once_at_a_time_and_the_next_waits_for_no_turn(running, payloads):
    work, models = Work(), ("slow", "slow", "slow", "other")
    work.is_open.clear()
    runner = running(work, payloads=payloads)
    jobs = [runner.submit(asked(model=model)) for model in models]
    until(lambda: work.attempts == 2)
    runner.turn()
    states = [runner.get(job.id).state for job in jobs]
    assert states == ["running", "queued", "queued", "running"]
    began_s = time.monotonic()
    work.is_open.set()
    until(lambda: all(runner.get(job.id).is_ended for job in jobs))
    assert time.monotonic() - began_s < 1.0  # two turns would be 2 s


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


@pytest.fixture(params=["files", pytest.param("s3", marks=pytest.mark.slow)])
def payloads(request, tmp_path):
    """Files in a folder of the home, and in the bucket of the registry's objects."""
    objects = "" if request.param == "files" else request.getfixturevalue("s3_url")
    return Payloads(files=place_beside(objects, tmp_path, "deferred"), kept=timedelta(hours=1))


def names_in(payloads):
    return {name for name, _ in payloads.files.files("")}


def test_an_answer_is_kept_for_its_time_and_its_job_says_so_after(running, payloads):
    runner = running(Work())
    job = runner.submit(asked(body=payloads.put(b"{}")))
    with pytest.raises(Conflict):
        payloads.answer_of(job, NOW)
    until(lambda: runner.get(job.id).is_ended)
    job = runner.get(job.id)
    payloads.put(b"42", "b.1")
    assert payloads.answer_of(job, NOW) == b"42"
    with pytest.raises(Gone):
        payloads.answer_of(job, job.ended_at + timedelta(hours=1))
    payloads.files.remove("b.1")
    with pytest.raises(Gone):
        payloads.answer_of(job, NOW)


def test_a_sweep_deletes_what_is_old_alone_also_beside_another_sweep(payloads):
    payloads.sweep()
    names = {payloads.put(b"a"), payloads.put(b"b")}
    payloads.sweep()
    assert names_in(payloads) == names
    over = replace(payloads, kept=timedelta(seconds=-1))
    over.sweep()
    over.sweep()
    assert names_in(payloads) == set()


@pytest.mark.slow
def test_a_bucket_is_asked_once_for_all_that_is_old(s3_url, tmp_path, monkeypatch):
    """Some 20 ms each would hold up the start of jobs for minutes."""
    import obstore

    payloads = Payloads(
        files=place_beside(s3_url, tmp_path, "deferred"), kept=timedelta(seconds=-60)
    )
    for _ in range(9):
        payloads.put(b"{}")
    requests, delete = [], obstore.delete
    monkeypatch.setattr(obstore, "delete", lambda *at: requests.append(at) or delete(*at))
    payloads.sweep()
    assert (len(requests), names_in(payloads)) == (1, set())


def test_of_two_attempts_the_one_that_its_job_names_is_the_answer(tmp_path, payloads):
    """A process is killed after it has kept its answer, and before the job names it."""
    jobs, within = jobs_in(tmp_path / "home"), payloads
    job = jobs.submit(asked(body=within.put(b"{}")), within)
    lost, answer = (
        within.put(text, f"{job.input['body']}.{n}") for n, text in enumerate((b"1", b"2"))
    )
    jobs.end(jobs.claim(job.id), "done", result={"file": answer, "bytes": 1})
    assert within.answer_of(jobs.get(job.id), NOW) == b"2"
    replace(within, kept=timedelta(seconds=-1)).sweep()
    assert lost not in names_in(within)


def test_files_of_a_folder_are_read_by_its_user_alone(tmp_path):
    payloads = Payloads(files=place_beside("", tmp_path, "deferred"), kept=timedelta(hours=1))
    file = tmp_path / "deferred" / payloads.put(b"{}")
    assert file.parent.stat().st_mode & 0o077 == 0


def test_a_request_fails_when_its_connection_is_lost_three_times_and_not_for_other_attempts(
    tmp_path,
):
    """It has waited before, for a server that was busy."""
    settings = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    body = payloads_of(settings).put(b"{}")
    given = asked(body=body, path="/v2/models/slow/infer", headers={})
    job = replace(jobs_in(tmp_path / "home").submit(given), attempt=9)
    told = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take_and_close():
            for _ in range(3):
                with listener.accept()[0] as connection:
                    connection.recv(1 << 16)

        closing = threading.Thread(target=take_and_close, daemon=True)
        closing.start()
        server = SimpleNamespace(address=listener.getsockname(), token="")
        for expected in (Unavailable, Unavailable, ModelFailed):
            with pytest.raises(expected):
                Asking(settings, job, server).answer(told.append)
            job = replace(job, progress=told[-1]["tell"])
        closing.join()


def test_without_its_request_a_job_fails_with_the_next_step(tmp_path):
    settings = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    job = jobs_in(tmp_path / "home").submit(asked())
    with pytest.raises(NotFound, match="kept no more"):
        Asking(settings, job, None).answer()
