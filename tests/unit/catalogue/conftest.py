from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.stores import open_database

from bascule.catalogue import Catalogue

Copy = Callable[[Path], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> str:
    """The address of an empty database of each kind."""
    return "sqlite" if request.param == "sqlite" else request.getfixturevalue("postgresql_url")


@pytest.fixture(scope="session")
def new_file(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """Copies a new catalogue into a home; migrations run once for all tests."""
    made = tmp_path_factory.mktemp("catalogue")
    open_database(made).create()

    def copy(home: Path) -> str:
        shutil.copy(made / "catalogue.db", home)
        return "sqlite"

    return copy


@pytest.fixture(scope="session")
def new_server_database(postgresql_server: str, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The same on PostgreSQL."""
    import psycopg

    template = f"template_{secrets.token_hex(6)}"
    server = postgresql_server.removesuffix("/postgres")
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {template}")
    open_database(tmp_path_factory.mktemp("home"), f"{server}/{template}").create()

    def copy(home: Path) -> str:
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(postgresql_server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return f"{server}/{name}"

    return copy


@pytest.fixture(params=["new_file", "new_server_database"], ids=["sqlite", "postgresql"])
def current(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a catalogue of this release, without rows; its home is `tmp_path`."""
    copy: Copy = request.getfixturevalue(request.param)
    return copy(tmp_path)


@pytest.fixture
def catalogue(tmp_path: Path, current: str) -> Catalogue:
    made: Catalogue = open_database(tmp_path, current)
    return made
