"""A backup is one verified file; a restore is all of it or nothing, over SQLite and PostgreSQL."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.unit.registry.conftest import say_gates, write_bundle

from bascule.app import open_catalogue, open_keys, open_objects, open_registry
from bascule.backups import back_up, restore, rows
from bascule.backups.archive import MANIFEST
from bascule.batch import Schedule, Schedules
from bascule.catalogue import HEAD, Catalogue, SqliteDatabase
from bascule.core import Conflict, NotFound, Untrusted
from bascule.security import Permission
from bascule.settings import RegistrySettings, Settings

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def settings_of(home: Path, store: str = "sqlite") -> Settings:
    return Settings(home=home, registry=RegistrySettings(store=store))


def fill(settings: Settings, folder: Path) -> None:
    """Two versions, an alias, tags, a verdict, a key, a schedule: rows with times, JSON, nulls."""
    registry = open_registry(settings)
    for number in (1, 2):
        bundle = write_bundle(folder / f"bundle{number}", "late", b"program %d" % number)
        say_gates(bundle, passed=True)
        registry.push(bundle, by="ada")
    registry.set_alias("late", "champion", 2, by="ada", reason="ünïcode and 'quotes'")
    registry.change_tags("late/1", {"team": "ops"}, by="ada")
    open_keys(settings).create("web", [Permission.parse("infer:late")], by="ada")
    Schedules(open_catalogue(settings)).add(
        Schedule(
            name="nightly", cron="0 2 * * *", job={"model": "late", "from": "a", "to": "b"},
            created_at=NOW,
        ),
        by="ada",
    )  # fmt: skip


def dump(settings: Settings) -> dict[str, list[str]]:
    """Every row of every table as text, but what a migration itself records."""
    with open_catalogue(settings).read() as connection:
        tables = sa.MetaData()
        tables.reflect(connection, only=sorted(rows.tables_of(HEAD)))
        return {
            table.name: sorted(str(tuple(map(str, row))) for row in connection.execute(
                sa.select(*(sa.cast(column, sa.Text) for column in table.columns))
            ))
            for table in tables.sorted_tables
        }  # fmt: skip


def take(settings: Settings, file: Path, **options):
    return back_up(open_catalogue(settings), open_objects(settings), settings.home, file, **options)


def put(settings: Settings, file: Path, **options):
    return restore(file, open_catalogue(settings), open_objects(settings), settings.home, **options)


@pytest.fixture
def home(tmp_path):
    settings = settings_of(tmp_path / "home")
    fill(settings, tmp_path)
    return settings


@pytest.fixture
def archive(home, tmp_path):
    take(home, tmp_path / "late.tar")
    return tmp_path / "late.tar"


def test_a_restored_home_has_every_row_and_every_bundle(home, archive, tmp_path):
    restored = put(other := settings_of(tmp_path / "other"), archive)
    assert (restored.manifest.versions, restored.manifest.bundles) == (2, 2)
    assert dump(other) == dump(home)
    assert open_registry(other).path("late@champion").joinpath("programs/onnx.onnx").read_bytes()
    assert [one.kind for one in open_registry(other).statements("late/1")] == ["gates"]


def test_what_is_pushed_after_a_restore_goes_on_with_the_numbers(home, archive, tmp_path):
    put(other := settings_of(tmp_path / "other"), archive)
    bundle = write_bundle(tmp_path / "third", "late", b"program 3")
    assert open_registry(other).push(bundle, by="ada").number == 3


def test_sqlite_moves_into_postgresql_and_back(home, archive, tmp_path, postgresql_url):
    shared = settings_of(tmp_path / "shared", postgresql_url)
    put(shared, archive)
    bundle = write_bundle(tmp_path / "third", "late", b"program 3")
    assert open_registry(shared).push(bundle, by="ada").number == 3  # sequences go on too
    take(shared, tmp_path / "shared.tar.gz")
    put(back := settings_of(tmp_path / "back"), tmp_path / "shared.tar.gz")
    assert [one.number for one in open_registry(back).versions("late")] == [1, 2, 3]
    assert set(dump(home)["events"]) < set(dump(back)["events"])


def test_a_catalogue_that_is_not_empty_is_not_replaced_without_force(home, archive, tmp_path):
    other = settings_of(tmp_path / "other")
    open_keys(other).create("first", [Permission.parse("keys")], by="eve")
    with pytest.raises(Conflict, match="the catalogue is not empty"):
        put(other, archive)
    assert [key.name for key in open_keys(other).stored()] == ["first"]
    put(other, archive, force=True)
    assert dump(other) == dump(home)


def test_a_trial_verifies_and_writes_nothing(archive, tmp_path):
    other = settings_of(tmp_path / "other")
    assert put(other, archive, is_trial=True).manifest.versions == 2
    assert not other.home.exists()


def test_a_backup_is_for_its_owner_alone_and_replaces_nothing(home, archive):
    assert archive.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict, match="exists already"):
        take(home, archive)
    take(home, archive, overwrite=True)


def test_a_home_without_a_catalogue_has_nothing_to_back_up(tmp_path):
    with pytest.raises(NotFound):
        take(settings_of(tmp_path / "none"), tmp_path / "none.tar")
    assert not (tmp_path / "none.tar").exists()


def test_a_missing_bundle_of_a_version_in_use_fails_the_backup(home, tmp_path):
    digest = open_registry(home).resolve("late/1").digest
    open_objects(home).remove(digest)
    with pytest.raises(NotFound, match="are missing"):
        take(home, tmp_path / "late.tar")
    open_registry(home).retire("late", 1, by="ada", reason="old")
    assert take(home, tmp_path / "late.tar").missing == (digest,)


# -- altered files --


def members(archive: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(archive) as opened:
        return [(one.name, opened.extractfile(one).read()) for one in opened]


def rewritten(archive: Path, content: list[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE):
    with tarfile.open(archive, "w") as opened:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size, member.type = len(data), kind
            opened.addfile(member, io.BytesIO(data))
    return archive


@pytest.mark.parametrize("part", ["catalogue/events.jsonl", "objects/", MANIFEST])
def test_one_altered_byte_is_found_before_anything_is_written(archive, tmp_path, part):
    changed = [
        (name, data[:-2] + b"X" + data[-1:] if name.startswith(part) else data)
        for name, data in members(archive)
    ]
    with pytest.raises(Untrusted):
        put(other := settings_of(tmp_path / "other"), rewritten(archive, changed))
    assert not list(other.home.glob("*"))


def test_a_file_that_was_cut_off_is_refused_at_every_place(archive, tmp_path):
    whole = archive.read_bytes()
    for at in range(0, len(whole) - 10_240, max(1, len(whole) // 12)):
        (cut := tmp_path / "cut.tar").write_bytes(whole[:at])
        with pytest.raises(Untrusted):
            put(settings_of(tmp_path / "other"), cut)


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "catalogue/../../evil", "objects/abc/x", "evil", "home/a\\b"]
)
def test_a_name_that_leads_elsewhere_is_refused(archive, tmp_path, name):
    with pytest.raises(Untrusted, match="no part of a backup"):
        put(settings_of(tmp_path / "other"), rewritten(archive, [(name, b"x")]))
    assert not (tmp_path / "evil").exists()


def test_links_and_doubles_are_refused(archive, tmp_path):
    content = members(archive)
    with pytest.raises(Untrusted, match="there twice"):
        put(settings_of(tmp_path / "a"), rewritten(archive, [content[0], content[0]]))
    with pytest.raises(Untrusted, match="no regular file"):
        put(settings_of(tmp_path / "b"), rewritten(archive, content[:1], tarfile.SYMTYPE))


def test_a_backup_of_a_newer_schema_is_refused(archive, tmp_path):
    content = dict(members(archive))
    said = json.loads(content[MANIFEST]) | {"schema": "9999"}
    content[MANIFEST] = json.dumps(said).encode()
    with pytest.raises(Untrusted, match="knows schemas up to"):
        put(other := settings_of(tmp_path / "other"), rewritten(archive, list(content.items())))
    assert models_of(other) == []


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_rows_of_an_earlier_schema_are_migrated(tmp_path, store, request):
    """An archive of before: written from the stored catalogue of schema 0008."""
    golden = Path(__file__).parents[2] / "golden" / "registry-0008.sql"
    with closing(sqlite3.connect(tmp_path / "old.db")) as old, old:
        old.executescript(golden.read_text())
    engine = SqliteDatabase(tmp_path / "old.db").engine
    (folder := tmp_path / "rows").mkdir()
    with engine.connect() as connection, connection.begin():
        rows.copy_out(connection, "0008", folder)
        models = connection.exec_driver_sql("SELECT count(*) FROM models").scalar_one()
    url = "sqlite" if store == "sqlite" else request.getfixturevalue("postgresql_url")
    catalogue = open_catalogue(settings_of(tmp_path / "new", url))
    catalogue.create()
    with catalogue.write() as connection:
        rows.copy_in(connection, "0008", folder)
    with catalogue.read() as connection:
        found = connection.exec_driver_sql("SELECT count(*) FROM models").scalar_one()
    assert found == models > 0


# -- kills --


def models_of(settings: Settings) -> list[str]:
    """The models that a user sees; none where there is no catalogue."""
    try:
        return [model.name for model in open_registry(settings).models()]
    except NotFound:
        return []


def killed_restore(settings: Settings, archive: Path, after: int) -> bool:
    """Restore in a process that is killed at its `after`-th rename or commit; whether it was."""
    code = f"""
import os, signal, sys
from pathlib import Path
from tests.unit.backups.test_backups import put, settings_of
left = [{after}]
real_rename, real_replace = os.rename, os.replace
def counted(real):
    def act(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return act
os.rename, os.replace = counted(real_rename), counted(real_replace)
import bascule.backups.rows as rows
rows._insert = counted(rows._insert)
put(settings_of(Path({str(settings.home)!r})), Path({str(archive)!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


@pytest.mark.parametrize(
    "after",
    [1, 3, pytest.param(2, marks=pytest.mark.slow)]
    + [pytest.param(n, marks=pytest.mark.slow) for n in (5, 7, 9, 12, 15, 18)],
)
def test_a_restore_that_is_killed_shows_nothing_and_is_finished_by_the_next(
    home, archive, tmp_path, after
):
    other = settings_of(tmp_path / "other")
    if not killed_restore(other, archive, after):
        pytest.skip("it ended before")
    assert models_of(other) == []
    put(other, archive)
    assert dump(other) == dump(home)
    assert {path.name for path in other.home.iterdir()} <= {
        "catalogue.db", "catalogue.db-wal", "catalogue.db-shm", "objects"
    }  # fmt: skip


# -- the ledger --


def test_the_ledger_comes_back_with_its_answers(home, tmp_path):
    (segments := home.home / "ledger").mkdir()
    (segments / "manifest.json").write_text("{}")
    (segments / "late").mkdir()
    (segments / "late" / "1.parquet").write_bytes(b"rows")
    (home.home / "private.key").write_bytes(b"k" * 32)
    made = take(home, tmp_path / "late.tar", with_ledger=True)
    assert made.has_ledger
    put(other := settings_of(tmp_path / "other"), tmp_path / "late.tar")
    assert (other.home / "ledger" / "late" / "1.parquet").read_bytes() == b"rows"
    assert (other.home / "private.key").read_bytes() == b"k" * 32
    with pytest.raises(Conflict):
        put(settings_of(tmp_path / "other"), tmp_path / "late.tar")


def test_a_ledger_that_has_no_files_is_none(home, tmp_path):
    assert not take(home, tmp_path / "late.tar", with_ledger=True).has_ledger


def test_the_tables_are_those_that_the_catalogue_has(tmp_path):
    catalogue = Catalogue(SqliteDatabase(tmp_path / "catalogue.db"))
    catalogue.create()
    with catalogue.read() as connection:
        found = set(sa.inspect(connection).get_table_names())
    assert found - {"alembic_version"} == rows.tables_of(HEAD)


def test_times_come_back_to_the_microsecond(home, archive, tmp_path):
    put(other := settings_of(tmp_path / "other"), archive)
    before = open_registry(home).versions("late")
    after = open_registry(other).versions("late")
    assert [one.pushed_at for one in before] == [one.pushed_at for one in after]
    assert after[0].pushed_at.utcoffset() == timedelta(0)
