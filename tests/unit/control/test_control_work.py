"""Work on threads of the control process: one of a key at once, bounded, kept for a while."""

import threading
import time

import pytest

from bascule.control import work as module
from bascule.control.work import Works
from bascule.core import Invalid, NotFound, Overloaded

WAIT_S = 30.0


def ended(works, work):
    until = time.monotonic() + WAIT_S
    while not works.get(work.id).is_done:
        assert time.monotonic() < until
        time.sleep(0.001)
    return works.get(work.id)


def test_work_is_done_on_a_thread_and_its_result_is_kept():
    works = Works()
    work = ended(works, works.start("adding", lambda: 1 + 1, owner="ada"))
    assert (work.result, work.problem, work.owner) == (2, None, "ada")
    assert work.seconds >= 0


def test_what_fails_keeps_its_error():
    def fail():
        raise Invalid("x is no number", hint="write 1")

    works = Works()
    work = ended(works, works.start("failing", fail, owner="ada", key="k"))
    assert work.problem.message == "x is no number"
    assert works.done("k") is None


def test_work_of_one_key_is_begun_once_while_it_is_under_way():
    works, go = Works(), threading.Event()
    first = works.start("measuring", lambda: go.wait(WAIT_S), owner="ada", key="late/7")
    assert works.start("measuring", lambda: None, owner="bob", key="late/7") is first
    go.set()
    ended(works, first)
    second = works.start("measuring", lambda: "new", owner="bob", key="late/7")
    assert second is not first
    ended(works, second)
    assert works.done("late/7").result == "new"
    assert works.latest("late/7") is second


def test_quick_work_waits_for_a_place_and_not_for_runs_of_hours():
    works, go = Works(), threading.Event()
    runs = [works.start("run", lambda: go.wait(WAIT_S), owner="a", lane="run") for _ in range(4)]
    assert ended(works, works.start("look", lambda: 1, owner="a")).result == 1
    go.set()
    for one in runs:
        ended(works, one)


def test_too_much_that_waits_is_refused_with_the_time_to_retry():
    works, go = Works(), threading.Event()
    begun = [works.start(str(n), lambda: go.wait(WAIT_S), owner="a") for n in range(32)]
    with pytest.raises(Overloaded) as refused:
        works.start("one more", lambda: None, owner="a")
    assert refused.value.facts["retry_after_s"] == 10
    go.set()
    for one in begun:
        ended(works, one)


def test_what_ended_long_ago_is_forgotten(monkeypatch):
    works = Works()
    old = ended(works, works.start("old", lambda: 1, owner="a"))
    monkeypatch.setattr(module, "_KEPT_S", 0.0)
    works.start("new", lambda: 1, owner="a")
    with pytest.raises(NotFound) as gone:
        works.get(old.id)
    assert gone.value.hint == "start it again"
