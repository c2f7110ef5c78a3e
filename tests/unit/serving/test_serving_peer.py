"""Two processes that ask each other."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from bascule.core.errors import KINDS, Conflict, ModelFailed, Unavailable
from bascule.serving.workers.peer import Peer
from bascule.serving.workers.supervised import Backoff


@pytest.fixture
def peers():
    """`peers(answer)`: a peer, and the other one, which answers by `answer`."""
    made = []

    def pair(answer):
        ours, theirs = socket.socketpair()
        made.extend(
            (
                Peer(ours, lambda what, said: (what, said), name="the other"),
                Peer(theirs, answer, name="one"),
            )
        )
        for one in made[-2:]:
            one.start()
        return made[-2:]

    yield pair
    for one in made:
        one.close()
    for one in made:
        one._reader.join(5)


def test_a_question_is_answered_with_its_arguments(peers):
    one, _ = peers(lambda what, said: {"what": what, **said})
    assert one.ask("models", 5, name="gb") == {"what": "models", "name": "gb"}


def test_both_sides_may_ask_at_once(peers):
    one, other = peers(lambda what, said: other.ask("back", 5, of=what))
    assert one.ask("there", 5) == ["back", {"of": "there"}]


def test_questions_are_answered_while_one_takes_its_time(peers):
    goes_on = threading.Event()
    one, _ = peers(lambda what, said: goes_on.wait(10) if what == "slow" else "quick")
    slow = threading.Thread(target=one.ask, args=("slow", 10))
    slow.start()
    assert one.ask("fast", 5) == "quick"
    goes_on.set()
    slow.join()


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_arrives_as_what_it_is(peers, kind):
    def fail(what, said):
        raise kind("no", hint="do this")

    one, _ = peers(fail)
    with pytest.raises(kind) as raised:
        one.ask("it", 5)
    assert type(raised.value) is kind
    assert (raised.value.message, raised.value.hint) == ("no", "do this")


def test_an_error_of_a_kind_that_is_not_known_arrives_as_the_nearest_one(peers):
    class Stale(Conflict):
        pass

    def fail(what, said):
        raise Stale("no")

    one, _ = peers(fail)
    with pytest.raises(Conflict):
        one.ask("it", 5)


def test_a_bug_of_the_other_side_is_told_without_its_words(peers, caplog):
    one, _ = peers(lambda what, said: 1 / 0)
    with pytest.raises(ModelFailed, match="internal error"):
        one.ask("it", 5)
    assert "ZeroDivisionError" in caplog.text


def test_a_question_that_is_not_answered_in_time_fails(peers):
    goes_on = threading.Event()
    one, _ = peers(lambda what, said: goes_on.wait(10))
    with pytest.raises(Unavailable, match=r"did not answer in 0\.1 s"):
        one.ask("it", 0.1)
    goes_on.set()


def test_a_question_fails_at_once_when_the_other_side_ends(peers):
    asked, goes_on = threading.Event(), threading.Event()

    def answer(what, said):
        asked.set()
        goes_on.wait(10)

    one, other = peers(answer)
    ending = threading.Thread(target=lambda: asked.wait(10) and other.close())
    ending.start()
    with pytest.raises(Unavailable, match="has ended"):
        one.ask("it", 10)
    goes_on.set()
    ending.join()
    assert one.ended.wait(5)
    with pytest.raises(Unavailable, match="has ended"):
        one.ask("it", 10)


@pytest.mark.parametrize(
    "line",
    [b"no message", b"{}", b"[]", b'{"ask": 1}', b'{"answer": 1}', b"[" * 100_000],
    ids=lambda line: line[:12].decode(),
)
def test_what_is_no_message_ends_the_conversation_and_is_named(line, caplog):
    ours, theirs = socket.socketpair()
    with theirs:
        one = Peer(ours, lambda what, said: None, name="the other")
        one.start()
        theirs.sendall(line + b"\n")
        assert one.ended.wait(5)
        assert theirs.recv(1) in (b"", b"{")
        one._reader.join(5)
    shown = repr(line[:100])[1:-1]
    with pytest.raises(Unavailable, match="the other sent what is no message") as raised:
        one.ask("it", 5)
    assert shown in raised.value.message
    assert shown in caplog.text
    assert len(raised.value.message) < 300


def test_an_answer_that_is_not_of_json_is_a_bug_of_the_other_side(peers, caplog):
    one, _ = peers(lambda what, said: {1, 2})
    with pytest.raises(ModelFailed, match="internal error"):
        one.ask("it", 5)
    assert "set is not JSON serializable" in caplog.text
    assert "'it'" in caplog.text


def test_a_question_that_is_not_of_json_is_a_bug_of_this_side(peers):
    one, _ = peers(lambda what, said: said["rows"])
    with pytest.raises(TypeError, match="not JSON serializable"):
        one.ask("it", 5, rows={1, 2})
    assert one.ask("it", 5, rows=[1, 2]) == [1, 2]


def test_the_facts_of_an_error_arrive_with_it(peers):
    def fail(what, said):
        raise Conflict("no", port=80, waited_s=0.5, path=Path("/a"), key=None)

    one, _ = peers(fail)
    with pytest.raises(Conflict) as raised:
        one.ask("it", 5)
    assert raised.value.facts == {"port": 80, "waited_s": 0.5, "path": "/a", "key": None}


def test_the_first_death_is_answered_at_once_and_quick_ones_ever_later():
    backoff = Backoff(healthy_after_s=10, longest_s=5)
    assert backoff.pause_s(0.1) == 0
    pauses = [backoff.pause_s(10.0) for _ in range(8)]
    assert pauses == sorted(pauses)
    assert pauses[0] > 0
    assert pauses[-1] == 5
    assert backoff.pause_s(10.1) == 0, "it was healthy"
