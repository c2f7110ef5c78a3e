from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.devices import Edge


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    """A repository that is there, and a device that trusts its root."""
    made = Edge(tmp_path)
    made.repository.init(made.root_keys)
    made.enroll()
    with made.server.running():
        yield made
