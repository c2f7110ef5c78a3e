"""Jobs of the catalogue: by one, by two, again, cancelled, and after a death."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.homes import jobs_in
from tests.waiting import until

from bascule.catalogue import Catalogue
from bascule.catalogue.postgresql import PostgresqlDatabase
from bascule.core import Conflict, Invalid, NotFound, Overloaded, is_alive, own_process
from bascule.jobs import Job, Jobs, Task, recorded, store, until_ended
from bascule.security import Key, Permission

from .conftest import WAIT_S, task

T0 = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def jobs(request, tmp_path) -> Jobs:
    if request.param == "sqlite":
        return jobs_in(tmp_path)
    url = request.getfixturevalue("postgresql_url")
    return Jobs(Catalogue(PostgresqlDatabase(url)))


def test_a_job_is_done_in_a_child_and_its_result_is_kept(runner):
    job = runner.wait(runner.submit(task(text="hallo", by="ada", title="an echo")), WAIT_S)
    assert job.result == {"echo": "hallo", "rows": 3, "by": "ada"}
    assert (job.state, job.progress, job.attempt) == ("done", {"done": 3, "of": 3}, 1)
    assert [one.id for one in runner.find(kind="echo", state="done")] == [job.id]
    assert runner.get(job.id[:8]) == job


def test_a_job_without_a_title_is_called_by_its_kind_and_model(jobs):
    for content, title in (({"model": "chat", "judge": "x"}, "echo chat"), ({}, "echo")):
        assert jobs.submit(Task(kind="echo", input=content)).title == title


def test_what_a_child_raises_is_kept_by_its_kind(runner):
    job = runner.wait(runner.submit(task(refuses=True)), WAIT_S)
    assert job.state == "failed"
    assert isinstance(job.problem, Invalid)
    assert job.problem.hint == "ask for less"


def test_a_running_job_is_cancelled_and_resumed(runner, tmp_path):
    ran = tmp_path / "ran"
    job = runner.submit(task(to=4, every_s=0.6, ran=str(ran)))
    until(lambda: runner.get(job.id).progress)
    runner.command(job.id, "cancel", by="ada")
    cancelled = runner.wait(job, WAIT_S)
    assert (cancelled.state, cancelled.error["error"]) == ("cancelled", "cancelled by ada")
    with pytest.raises(Conflict, match="is cancelled"):
        runner.command(job.id, "cancel")
    again = runner.wait(runner.command(job.id, "resume"), WAIT_S)
    assert (again.state, again.attempt, ran.read_text()) == ("done", 2, "x\nx\n")


def test_one_job_of_a_subject_is_under_way_and_the_latest_replaces_others(runner):
    first = runner.submit(task(subject="late/7", every_s=0.2))
    assert runner.submit(task(subject="late/7")).id == first.id
    runner.wait(first, WAIT_S)
    second = runner.wait(runner.submit(task(subject="late/7")), WAIT_S)
    assert [job.id for job in runner.find(subject="late/7")] == [second.id]


def test_more_jobs_than_there_is_room_for_wait(runner):
    jobs = [runner.submit(task(to=1, every_s=1.0)) for _ in range(3)]
    assert [runner.get(job.id).state for job in jobs] == ["running", "running", "queued"]
    until(lambda: runner.turn() or runner.get(jobs[2].id).is_ended)


def test_too_many_that_wait_are_refused_with_the_time_to_retry(jobs):
    for _ in range(32):
        jobs.submit(task())
    with pytest.raises(Overloaded) as refused:
        jobs.submit(task())
    assert refused.value.facts["retry_after_s"] == 10


def test_what_another_process_began_is_taken_over_when_it_is_gone(runner, tmp_path):
    """Once by itself, because the kind says so; then it waits for a command."""
    script = (
        "import sys; from pathlib import Path; from tests.homes import jobs_in; "
        "jobs = jobs_in(Path(sys.argv[1])); claim = jobs.claim(sys.argv[2]); "
        "print(flush=True); sys.stdin.read()"
    )
    home = tmp_path / "home"
    job = jobs_in(home).submit(task(to=1))

    def killed() -> None:
        argv = [sys.executable, "-c", script, str(home), job.id]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            assert runner.get(job.id).state == "running"
            runner.turn()
            assert runner.get(job.id).attempt == attempt  # it lives
            process.kill()

    attempt = 1
    killed()
    assert runner.get(job.id).state == "killed"
    jobs_in(home).after_deaths(lambda _: 1)
    assert runner.get(job.id).state == "queued"
    attempt = 2
    killed()
    runner.turn()
    dead = runner.get(job.id)
    assert (dead.state, dead.attempt) == ("killed", 2)
    assert "ended" in dead.error["error"]
    assert runner.wait(runner.command(job.id, "resume"), WAIT_S).state == "done"


def test_a_follower_waits_for_the_process_that_goes_on_with_a_job(runner, tmp_path):
    script = (
        "import sys; from pathlib import Path; from tests.homes import jobs_in; "
        "jobs_in(Path(sys.argv[1])).claim(sys.argv[2])"
    )
    home = tmp_path / "home"
    job = jobs_in(home).submit(task(to=1))
    subprocess.run([sys.executable, "-c", script, str(home), job.id], check=True)
    is_seen, followed = threading.Event(), []

    def follow() -> None:
        def watch(seen: Job) -> None:
            if seen.state == "killed":
                is_seen.set()

        followed.append(until_ended(jobs_in(home), job.id, watch))

    follower = threading.Thread(target=follow)
    follower.start()
    assert is_seen.wait(WAIT_S)
    runner.turn()
    follower.join(WAIT_S)
    assert [own.state for own in followed] == ["done"]


def test_a_job_that_ended_early_has_a_reason_for_those_that_follow_it(jobs):
    job = jobs.submit(task())
    assert jobs.get(job.id).problem is None
    with pytest.raises(Conflict, match="was cancelled by ada"):
        raise jobs.command(job.id, "cancel", by="ada").problem


def test_a_holder_of_another_host_has_the_job_until_its_lease_ends(jobs, monkeypatch):
    monkeypatch.setattr(store, "LEASE_S", 0.5)
    claim = jobs.start(task())
    jobs.save(claim, process="other/host 1 1")
    assert jobs.get(claim.job.id).state == "running"
    until(lambda: jobs.get(claim.job.id).state == "killed")


@pytest.mark.parametrize("order", ["cancelled, then dead", "dead, then cancelled"])
def test_a_job_that_is_cancelled_is_not_run_again_for_its_dead_process(jobs, order, monkeypatch):
    monkeypatch.setattr(store, "LEASE_S", 0.5)
    claim = jobs.start(task())
    jobs.save(claim, process="other/host 1 1")
    job = claim.job.id
    if order == "cancelled, then dead":
        jobs.command(job, "cancel", by="ada")
    until(lambda: jobs.get(job).state == "killed")
    if order == "dead, then cancelled":
        jobs.command(job, "cancel", by="ada")
    jobs.after_deaths(lambda _: 20)
    assert jobs.get(job).state == "cancelled"
    with pytest.raises(Conflict, match="was cancelled by ada"):
        raise jobs.get(job).problem
    with pytest.raises(Conflict, match="is cancelled"):
        jobs.command(job, "cancel")


def test_a_job_that_is_cancelled_while_it_is_refused_for_now_is_not_tried_again(jobs):
    claim = jobs.start(task())
    jobs.command(claim.job.id, "cancel", by="ada")
    ended = jobs.end(claim, "queued")
    assert (ended.state, ended.ended_at is None) == ("cancelled", False)
    with pytest.raises(Conflict, match="was cancelled by ada"):
        raise ended.problem
    assert jobs.command(ended.id, "retry").stop == ""


def test_the_fence_refuses_a_holder_that_was_replaced(jobs):
    late = jobs.start(task())
    jobs.command(late.job.id, "cancel")
    assert jobs.save(late, progress={"done": 1}).stop == "cancelled"
    jobs.end(late, "cancelled", progress={})
    new = jobs.claim(late.job.id, after=("cancelled",))
    assert new is not None
    for act in (jobs.save, lambda claim: jobs.end(claim, "done")):
        with pytest.raises(Conflict, match="another process"):
            act(late)
    jobs.end(new, "done", result=1)
    assert jobs.get(new.job.id).result == 1


def test_two_of_one_subject_do_not_run_side_by_side(jobs):
    first, second = jobs.start(task()), jobs.start(task())
    jobs.begin(first, "run1", facts={"a": 1})
    with pytest.raises(Conflict) as refused:
        jobs.begin(second, "run1")
    assert refused.value.facts["under_way"] == "run1"
    assert jobs.facts(first.job.id) == {"a": 1}
    assert jobs.about("echo", "run").id == first.job.id


def test_the_end_of_a_long_log_is_kept(jobs):
    claim = jobs.start(task())
    for number in range(3):
        jobs.save(claim, log=[f"{number}" + "x" * 99_000])
    log = jobs.log(claim.job.id)
    assert len(log) == 200_000
    assert log.endswith("x\n")
    assert "2x" in log
    assert not log.startswith("0")


def test_work_of_this_process_is_recorded_with_its_log_and_end(jobs):
    with recorded(jobs, task(by="ada"), "bascule.test") as live:
        live.tell({"done": 1})
        assert jobs.find() == []  # what is refused before it begins leaves no record
        live.begin("a subject", {})
        live.result = 7
    (job,) = jobs.find()
    assert (job.state, job.result, job.progress) == ("done", 7, {"done": 1})

    def fail() -> None:
        with recorded(jobs, job, "bascule.test") as again:
            again.begin("a subject", {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert jobs.get(job.id).error["error"] == "ZeroDivisionError"


def test_without_a_catalogue_there_are_no_jobs(tmp_path):
    jobs = Jobs(jobs_in(tmp_path / "none").catalogue)
    assert jobs.find() == []
    with pytest.raises(NotFound, match="no job"):
        jobs.get("ab")
    assert not (tmp_path / "none" / "catalogue.db").exists()


# -- the right of the owner --


def key(**changes) -> Key:
    made = {"id": "k1", "name": "ci", "token_sha256": "", "created_at": T0, "created_by": "root"}
    allowed = (Permission.parse("manage:late"),)
    return Key(**{"permissions": allowed, **made, **changes})


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ([key()], ""),
        ([], "is gone"),
        ([key(revoked_at=T0)], "is revoked"),
        ([key(expires_at=T0)], "is expired"),
        ([key(permissions=(Permission.parse("manage:other"),))], "does not allow manage:late"),
    ],
)
def test_a_job_does_not_start_without_the_right_of_its_owner(make_runner, keys, why):
    runner = make_runner(keys=lambda: keys)
    job = runner.wait(runner.submit(task(model="late", key="k1")), WAIT_S)
    assert job.state == ("failed" if why else "done")
    assert why in (job.error or {"error": ""})["error"]


def test_a_running_job_ends_with_the_key_that_it_was_submitted_with(make_runner):
    keys = [key()]
    runner = make_runner(keys=lambda: keys)
    job = runner.submit(task(model="late", key="k1", to=600, every_s=0.1))
    until(lambda: runner.get(job.id).progress)
    keys[:] = [key(revoked_at=T0)]
    ended: Job = runner.wait(job, WAIT_S)
    assert ended.state == "cancelled"
    assert "is revoked" in ended.error["error"]


def test_a_process_is_known_by_more_than_its_number():
    machine, pid, began = own_process().split(" ")
    assert is_alive(own_process())
    assert is_alive(f"{machine} {pid} {int(began) + 1}") is False
    assert is_alive(f"other {pid} {began}") is None
    assert Path(f"/proc/{pid}").exists()


def test_of_eight_that_claim_a_job_one_has_it(jobs):
    """And of eight that begin the same subject, one goes on."""
    job, won, begun = jobs.submit(task()), [], []

    def claim() -> None:
        if (mine := jobs.claim(job.id)) is not None:
            won.append(mine)

    def begin() -> None:
        other = jobs.start(task())
        with suppress(Conflict):
            begun.append(jobs.begin(other, "one run"))

    for act, winners in ((claim, won), (begin, begun)):
        threads = [threading.Thread(target=act) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1


def test_a_child_whose_lease_another_process_took_is_ended_at_once(runner, tmp_path):
    ran = tmp_path / "ran"
    job = runner.submit(task(to=600, every_s=0.1, ran=str(ran)))
    until(ran.exists)
    other = runner.claim(job.id, after=("running",))  # as after its lease, on another host
    assert other is not None
    until(lambda: not runner._here)
    runner.end(other, "done", result=1)
    assert (runner.get(job.id).result, ran.read_text()) == (1, "x\n")


def test_a_sentence_in_an_input_is_shown_whole_and_without_the_secrets_of_addresses(jobs):
    why = "retry? a drift; median 23 -> 35 (p = 2e-26, level 0.0001)"
    job = jobs.submit(task(why=why, text="postgresql:/ada:hunter2@db/x"))
    assert job.shown().input["why"] == why
    other = jobs.submit(task(why="drift of postgresql:/ada:hunter2@db/x?password=hunter2"))
    assert "hunter2" not in f"{job.shown().input} {other.shown().input}"
