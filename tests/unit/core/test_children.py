"""A question to a process of its own: its answer, its errors, and the end of one that is greedy."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

import pytest

from bascule.core import Child, Conflict, Limits, ModelFailed, TimedOut, TooLarge

MEMORY = 128 << 20


def ask(act, *, amount=0, pipe="", **limits):
    question = {"act": act, "amount": amount, "pipe": pipe}
    return Child(
        "tests.greedy", question, Limits(**({"timeout_s": 30.0} | limits)), what="the act"
    ).answer()


def test_what_the_module_answers_is_answered():
    assert ask("nothing") == {"act": "nothing"}
    assert len(ask("print", amount=2_000_000)["text"]) == 2_000_000


def test_what_the_module_raises_is_raised_by_its_kind():
    with pytest.raises(Conflict, match="it is there") as raised:
        ask("refuse")
    assert raised.value.hint == "choose another name"


@pytest.mark.parametrize("act", ["touch", "reserve", "child"])
def test_one_that_takes_more_memory_than_it_may_is_ended(act):
    started_s = time.monotonic()
    with pytest.raises(TooLarge, match="the act takes more than 128 MiB of memory"):
        ask(act, amount=4 << 30, memory_bytes=MEMORY)
    assert time.monotonic() - started_s < 20


def test_native_code_that_aborts_at_its_limit_took_too_much():
    with pytest.raises(TooLarge, match="more than 128 MiB"):
        ask("abort", memory_bytes=MEMORY)
    with pytest.raises(ModelFailed, match="the act failed"):
        ask("abort")


def test_one_that_answers_more_than_it_may_is_ended():
    with pytest.raises(TooLarge, match="the answer is over 1,000 bytes"):
        ask("print", amount=2_000, answer_bytes=1_000)


def test_one_that_takes_too_long_is_ended():
    with pytest.raises(TimedOut, match=r"the act took over 0\.5 s"):
        ask("hang", timeout_s=0.5)


def test_one_that_dies_has_failed():
    with pytest.raises(ModelFailed, match="the act failed"):
        ask("segfault", memory_bytes=MEMORY)


@pytest.mark.parametrize(
    ("act", "count"), [("leave", 2), ("leave and die", 1), ("leave and print", 2)]
)
def test_what_it_has_started_ends_with_it(tmp_path, act, count):
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with suppress(ModelFailed, TooLarge):
        ask(
            act, pipe=str(pipe), amount=2_000 if act == "leave and print" else 0, answer_bytes=1_000
        )
    written = b""
    while select.select([reader], [], [], 10)[0] and (piece := os.read(reader, 100)):
        written += piece
    assert select.select([reader], [], [], 0)[0], "one of them still holds the pipe"
    assert written == b"\n" * count
    os.close(reader)
