"""An error that a user meets says what to do next.

Raises without a hint are counted by room. The counts may only fall: mend a raise, then lower its
number here. Where an error is shown, one without a hint has the step of its kind.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from tests.sources import tree_of

import bascule
from bascule.core.errors import KINDS, next_step

SOURCE = Path(bascule.__file__).parent
NAMES = frozenset(kind.__name__ for kind in KINDS)
WITHOUT_HINT = {
    "backups": 9,
    "batch": 25,
    "bundle": 82,
    "catalogue": 4,
    "configuring": 3,
    "console": 7,
    "control": 11,
    "core": 4,
    "demo": 1,
    "edge": 10,
    "endpoints": 7,
    "jobs": 4,
    "kinds": 1,
    "mlflow": 1,
    "monitoring": 22,
    "operations": 1,
    "packing": 56,
    "registry": 7,
    "release": 21,
    "remotes": 3,
    "security": 3,
    "serving": 46,
    "settings": 1,
    "stats": 22,
}
"""By room, as `python -m tests.unit.test_hints` lists them."""


def without_hint(path):
    """The lines of a module that make an error of a kind without a hint."""
    for node in ast.walk(tree_of(path)):
        is_error = isinstance(node, ast.Call) and getattr(node.func, "id", "") in NAMES
        # `**facts` may bring one: what hands on the hint of another error does so.
        if is_error and all(keyword.arg not in ("hint", None) for keyword in node.keywords):
            yield node.lineno


def by_room():
    counts = Counter()
    for path in sorted(SOURCE.rglob("*.py")):
        lines = list(without_hint(path))
        if lines:
            counts[path.relative_to(SOURCE).parts[0].removesuffix(".py")] += len(lines)
    return dict(counts)


def test_an_error_without_a_hint_has_the_next_step_of_its_kind():
    assert all(next_step(kind("it did not work")) for kind in KINDS)
    assert next_step(KINDS[0]("no", hint="do this")) == "do this"


def test_errors_without_a_next_step_only_become_fewer():
    counts = by_room()
    assert {room: n for room, n in counts.items() if n > WITHOUT_HINT.get(room, 0)} == {}


if __name__ == "__main__":
    for path in sorted(SOURCE.rglob("*.py")):
        for line in without_hint(path):
            print(f"{path.relative_to(SOURCE)}:{line}")  # noqa: T201
