"""A runner of jobs of the kind `echo`, with real children."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import echo_kind
from tests.homes import jobs_in

from bascule.jobs import JobRunner, Kinds, Task
from bascule.kinds import asking
from bascule.settings import load_settings

KINDS = Kinds({"echo": echo_kind.PLACE})
WAIT_S = 60.0


def task(**values: Any) -> Task:
    how = {name: values.pop(name) for name in list(values) if name in Task.__dataclass_fields__}
    return Task(kind="echo", input=values, **how)


@pytest.fixture
def make_runner(tmp_path: Path) -> Callable[..., JobRunner]:
    """`make_runner()`: one of several controllers over one catalogue."""

    def make(**how: Any) -> JobRunner:
        catalogue = jobs_in(tmp_path / "home").catalogue
        return JobRunner(catalogue, KINDS, asking(load_settings(tmp_path, {})), **how)

    return make


@pytest.fixture
def runner(make_runner: Callable[..., JobRunner]) -> Iterator[JobRunner]:
    made = make_runner()
    yield made
    for job in made.find():
        if not job.is_ended:
            made.command(job.id, "cancel")
            made.wait(job, WAIT_S)
