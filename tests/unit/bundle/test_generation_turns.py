"""Turns of a real engine: free again soon after their callers have gone."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from tests.language_models import asking
from tests.pace import is_within
from tests.tiers import first_of

from bascule.bundle import read_manifest
from bascule.bundle.generation import chunk_of, open_generation
from bascule.core import TimedOut

WAIT_S = 20.0


@pytest.fixture(scope="module")
def program(chat):
    opened = open_generation(chat, read_manifest(chat))
    yield opened
    opened.close()


@pytest.mark.parametrize("said", first_of(["a long prompt", "a long answer"]))
def test_the_turn_is_free_soon_after_the_caller_has_gone(program, said):
    said = {
        "a long prompt": asking("river mountain " * 450, max_tokens=1),
        "a long answer": asking("Tell a story.", max_tokens=900),
    }[said]
    took_s = []
    for number in range(3):  # others compute here too: the quickest is what it takes
        cancelled, ended = threading.Event(), threading.Event()
        request = {"request": np.array([f'{said[:-1]}, "seed": {number}}}'], object)}

        def read(request=request, cancelled=cancelled, ended=ended):
            for _ in program.run_in_parts(request, None, cancelled):
                pass
            ended.set()

        threading.Thread(target=read, daemon=True).start()
        assert not ended.wait(0.3)
        cancelled.set()
        began_s = time.monotonic()
        assert ended.wait(WAIT_S)
        took_s.append(time.monotonic() - began_s)
    assert is_within(min(took_s), 0.2), took_s
    after = {"request": np.array([asking("Say hello.", max_tokens=1)], object)}
    assert chunk_of(program.run(after)).usage.completion_tokens == 1


def test_a_whole_answer_is_ended_by_an_interrupt_and_the_next_one_is_not(program):
    story = {"request": np.array([asking("Tell a story.", max_tokens=900)], object)}
    ended, errors = threading.Event(), []

    def ask():
        try:
            program.run(story)
        except TimedOut as error:
            errors.append(error)
        ended.set()

    threading.Thread(target=ask, daemon=True).start()
    assert not ended.wait(0.3)
    program.interrupt()
    assert ended.wait(WAIT_S)
    assert len(errors) == 1
    after = {"request": np.array([asking("Say hello.", max_tokens=1)], object)}
    assert chunk_of(program.run(after)).usage.completion_tokens == 1
