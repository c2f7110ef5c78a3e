"""Which cases of a test are of the second tier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import hypothesis
import pytest


def first_of(cases: Iterable[Any], count: int = 1) -> list[Any]:
    """The cases, all but the first so many marked as slow: the first stand for their class."""
    cases = list(cases)
    return [
        *cases[:count],
        *(
            pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
            for case in cases[count:]
        ),
    ]


def examples(count: int) -> int:
    """How many examples Hypothesis draws: so many in the second tier, three in ten in the first."""
    return max(1, count * hypothesis.settings.default.max_examples // 100)
