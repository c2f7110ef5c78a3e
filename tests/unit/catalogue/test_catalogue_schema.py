from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from tests.stores import open_database

from bascule.catalogue import Catalogue, Leases, SqliteDatabase, migrations, schema
from bascule.core import Unavailable, Untrusted

GOLDEN = Path(__file__).parents[2] / "golden"
BEFORE, NEWER = (f"{int(schema.HEAD) + step:04}" for step in (-1, 1))

IMPORTS = """
import sys
from pathlib import Path
from bascule.registry import open_registry
open_registry(Path(sys.argv[1])).models()
print(*(name for name in ("alembic", "mako", "onnxruntime", "pydantic") if name in sys.modules))
"""


def test_the_head_that_is_written_down_is_that_of_the_migrations():
    config = Config()
    config.set_main_option("script_location", str(migrations.FOLDER))
    config.set_main_option("path_separator", "os")

    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_opening_a_current_home_imports_neither_migrations_nor_a_runtime(tmp_path):
    Catalogue(SqliteDatabase(tmp_path / "catalogue.db")).create()

    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.fixture
def before(postgresql_url):
    """A shared catalogue as the release before left it, and its URL."""
    import psycopg

    stored = GOLDEN / f"postgresql-{BEFORE}.sql"
    with psycopg.connect(postgresql_url) as connection:
        connection.execute(stored.read_text())
    return postgresql_url


def test_a_shared_catalogue_is_migrated_by_the_command_alone(before, tmp_path):
    catalogue = open_database(tmp_path, before)
    for act in (catalogue.create, catalogue.read().__enter__, catalogue.write().__enter__):
        with pytest.raises(Unavailable, match=r"tables of an earlier release") as refusal:
            act()
        assert "bascule migrate" in refusal.value.hint
    assert catalogue.migrate() == schema.HEAD
    catalogue.create()
    with catalogue.read() as connection:
        assert connection.execute(sa.select(schema.releases.c.floor)).all()[-1] == (schema.FLOOR,)


def test_of_four_that_migrate_at_once_one_does_and_all_go_on(before, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(open_database(tmp_path, before).migrate) for _ in range(4)]
        assert {each.result() for each in done} == {schema.HEAD}
    with open_database(tmp_path, before).read() as connection:
        rows = connection.execute(sa.select(schema.releases.c.revision)).scalars().all()
    assert rows.count(schema.HEAD) == 1


def test_a_migration_that_is_cut_off_has_changed_nothing(before, tmp_path, monkeypatch):
    def cut_off(connection):
        migrate(connection)
        raise KeyboardInterrupt

    migrate = migrations.upgrade
    monkeypatch.setattr(migrations, "upgrade", cut_off)
    with pytest.raises(KeyboardInterrupt):
        open_database(tmp_path, before).migrate()
    monkeypatch.undo()
    with pytest.raises(Unavailable, match=r"tables of an earlier release"):
        open_database(tmp_path, before).create()
    assert open_database(tmp_path, before).migrate() == schema.HEAD


def test_the_catalogue_of_a_laptop_is_migrated_at_its_first_use(tmp_path):
    stored = GOLDEN / f"registry-{BEFORE}.sql"
    with closing(sqlite3.connect(tmp_path / "catalogue.db")) as connection:
        connection.executescript(stored.read_text())
    assert open_database(tmp_path, "sqlite").revision() == schema.HEAD


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
@pytest.mark.parametrize(
    ("floor", "is_usable"),
    [(schema.HEAD, True), (schema.FLOOR, True), (NEWER, False), (None, False)],
)  # fmt: skip
def test_a_newer_schema_is_used_if_its_floor_allows_it(tmp_path, store, floor, is_usable, request):
    url = request.getfixturevalue("postgresql_url") if store == "postgresql" else store
    catalogue = open_database(tmp_path, url)
    catalogue.create()
    with catalogue.write() as connection:
        row = {"revision": NEWER, "release": "9.9.9", "at": datetime.now(UTC), "floor": floor}
        connection.execute(sa.insert(schema.releases).values(**row))
        connection.exec_driver_sql("ALTER TABLE leases ADD COLUMN colour TEXT")
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{NEWER}'")
    restarted = open_database(tmp_path, url)
    if is_usable:
        assert restarted.migrate() == NEWER
        assert Leases(restarted).acquire("rollouts", "me", 5.0) is not None
    else:
        with pytest.raises(Untrusted, match=r"by Bascule 9\.9\.9"):
            restarted.migrate()


@pytest.mark.parametrize("number", range(int(schema.FLOOR) + 1, int(schema.HEAD) + 1))
def test_a_migration_above_the_floor_only_adds_what_releases_before_need_not_know(number):
    before, after = (_columns_at(f"{revision:04}") for revision in (number - 1, number))
    for table, columns in before.items():
        assert columns.items() <= after[table].items()
        for name in after[table].keys() - columns.keys():
            assert after[table][name][1] or after[table][name][2], f"{table}.{name} is required"


def _columns_at(revision):
    engine = sa.create_engine("sqlite://")
    with ExitStack() as stack, engine.connect() as connection, connection.begin():
        stack.callback(engine.dispose)
        migrations.migrate(connection, revision)
        inspector = sa.inspect(connection)
        return {
            table: {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(table)
            }
            for table in inspector.get_table_names()
        }
