"""Durations are written in the unit that a person reads."""

from __future__ import annotations

import pytest

from bascule.core import duration_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 us"), (45.2e-6, "45.2 us"), (999.4e-6, "999 us"), (999.6e-6, "1 ms"),
        (0.0269, "26.9 ms"), (0.9996, "1.00 s"), (1.234, "1.23 s"), (12_345.6, "12,345.6 s"),
    ],
)  # fmt: skip
def test_a_duration_has_the_unit_that_gives_less_than_a_thousand(seconds, words):
    assert duration_words(seconds) == words
