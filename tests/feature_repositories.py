"""Feast itself, and small repositories of it: a file of rows, and an online store in SQLite."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.own_environments import files_of

TTL = timedelta(days=1)
CONFIGURATION = """
project: flights
registry: registry.db
provider: local
online_store: {type: sqlite, path: online.db}
offline_store: {type: dask}
entity_key_serialization_version: 3
"""


def feast_packages() -> Path:
    """The folder of Feast and of what it brings, to be put on a path.

    Feast requires pandas 2 and the tests run it on pandas 3, for which it lacks nothing here.
    """
    return files_of("feast", python=f"{sys.version_info.major}.{sys.version_info.minor}")


@contextmanager
def feast_imported(metrics: Path) -> Iterator[None]:
    """Feast on the path of this process, which keeps nothing of it: its connections are closed.

    Imported first, it would have prometheus_client write files for all that is measured here.
    """
    import prometheus_client  # noqa: F401

    connections: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connections.append(connect(*arguments, **options))
        return connections[-1]

    with pytest.MonkeyPatch.context() as patch:
        for name in ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR"):
            patch.setenv(name, str(metrics))
        patch.setattr(sqlite3, "connect", connected)
        patch.setattr(sys, "path", [*sys.path, str(feast_packages())])
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # of the servers that are started
        yield
    for connection in connections:
        connection.close()


def make_repository(folder: Path, rows: pd.DataFrame, *, ttl: timedelta = TTL) -> Any:
    """A store of `rows`, materialised: by `carrier` the features of the service `late`.

    Columns: carrier, at, created; all others are features.
    """
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
    from feast.types import Float64, Int64, String
    from feast.value_type import ValueType

    folder.mkdir(exist_ok=True)
    (folder / "feature_store.yaml").write_text(CONFIGURATION)
    rows.to_parquet(folder / "carriers.parquet")
    types = {"f": Float64, "i": Int64}
    features = rows.drop(columns=["carrier", "at", "created"])
    carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
    view = FeatureView(
        name="carriers", entities=[carrier], ttl=ttl,
        schema=[Field(name=n, dtype=types.get(features[n].dtype.kind, String)) for n in features],
        source=FileSource(
            path=str(folder / "carriers.parquet"), timestamp_field="at",
            created_timestamp_column="created",
        ),
    )  # fmt: skip
    origins = view.with_name("origins").with_join_key_map({"carrier": "origin"})
    store = FeatureStore(repo_path=str(folder))
    store.apply(
        [
            carrier, view, FeatureService(name="late", features=[view]),
            FeatureService(name="late_by_origin", features=[origins]),
        ]
    )  # fmt: skip
    now = datetime.now(UTC)
    store.materialize(now - timedelta(days=3650), now + timedelta(seconds=1))
    return store
