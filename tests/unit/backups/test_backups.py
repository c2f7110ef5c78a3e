"""A backup is one verified file; a restore is all of it or nothing, over SQLite and PostgreSQL."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from tests.tiers import first_of
from tests.unit.registry.conftest import say_gates, write_bundle

from bascule.app import (
    open_catalogue,
    open_keys,
    open_objects,
    open_outcomes,
    open_registry,
)
from bascule.backups import back_up, restore, restoring, rows, settle
from bascule.backups.archive import MANIFEST
from bascule.backups.checking import check
from bascule.backups.taking import LEDGER_FOLDERS
from bascule.catalogue import HEAD, Catalogue, SqliteDatabase
from bascule.core import Conflict, NotFound, TooLarge, Untrusted
from bascule.jobs import Schedule, Schedules
from bascule.monitoring.ledger.manifest import Manifest, Segment
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
    catalogue = open_catalogue(settings, settles=False)
    return restore(file, catalogue, open_objects(settings), settings.home, **options)


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


@pytest.mark.parametrize("part", first_of(["catalogue/events.jsonl", "objects/", MANIFEST]))
def test_one_altered_byte_is_found_before_anything_is_written(archive, tmp_path, part):
    changed = [
        (name, data[:-2] + b"X" + data[-1:] if name.startswith(part) else data)
        for name, data in members(archive)
    ]
    with pytest.raises(Untrusted):
        put(other := settings_of(tmp_path / "other"), rewritten(archive, changed))
    assert not list(other.home.glob("*"))


@pytest.mark.slow
def test_a_file_that_was_cut_off_is_refused_at_every_place(archive, tmp_path):
    whole = archive.read_bytes()
    for at in range(0, len(whole) - 10_240, max(1, len(whole) // 4)):
        (cut := tmp_path / "cut.tar").write_bytes(whole[:at])
        with pytest.raises(Untrusted):
            put(settings_of(tmp_path / "other"), cut)


def test_a_name_that_leads_elsewhere_is_refused(archive, tmp_path):
    (unpacked := tmp_path / "unpacked").mkdir()
    for name in ("../evil", "objects/abc/x", "/evil", "catalogue/../../evil", "evil", "home/a\\b"):
        with pytest.raises(Untrusted, match="no part of a backup"):
            check(rewritten(archive, [(name, b"x")]), unpacked)
    assert not (tmp_path / "evil").exists()
    assert not list(unpacked.glob("*"))


def test_links_and_doubles_are_refused(archive, tmp_path):
    content = members(archive)
    for name, changed, kind in (
        ("there twice", [content[0], content[0]], tarfile.REGTYPE),
        ("no regular file", content[:1], tarfile.SYMTYPE),
    ):
        (unpacked := tmp_path / name).mkdir()
        with pytest.raises(Untrusted, match=name):
            check(rewritten(archive, changed, kind), unpacked)


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


def repacked(archive: Path, parts: dict[str, bytes | None]):
    """An archive whose digests fit, with other bytes under some names, or without them."""
    content = dict(members(archive)) | parts
    said = json.loads(content.pop(MANIFEST))
    content = {name: data for name, data in content.items() if data is not None}
    said["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        for name, data in content.items()
    }
    return rewritten(archive, [*content.items(), (MANIFEST, json.dumps(said).encode())])


def with_rows(archive: Path, table: str, change) -> Path:
    name = f"catalogue/{table}.jsonl"
    lines = dict(members(archive))[name].decode().splitlines()
    return repacked(archive, {name: "".join(f"{line}\n" for line in change(lines)).encode()})


def without(archive: Path, folder: str) -> dict[str, None]:
    return dict.fromkeys(name for name, _ in members(archive) if name.startswith(folder))


def same_row(value):
    """The rows of a table, each with one value in all columns."""
    return lambda rows: [rows[0], json.dumps([value] * len(json.loads(rows[0])))]


DAMAGED = {
    "a row that is short": lambda file: with_rows(file, "events", lambda rows: [*rows, "[1]"]),
    "a segment that is missing": lambda file: repacked(file, {"home/ledger/late/1.parquet": None}),
    "a version without its bundle": lambda file: repacked(file, without(file, "objects/")),
    "a row that is no JSON": lambda file: with_rows(file, "events", lambda rows: [*rows, "["]),
    "a row that is twice": lambda file: with_rows(file, "models", lambda rows: [*rows, rows[-1]]),
    "a null where none may be": lambda file: with_rows(file, "models", same_row(None)),
    "a time that is none": lambda file: with_rows(file, "models", same_row("x")),
    "other columns": lambda file: with_rows(file, "models", lambda rows: ['["x"]', *rows[1:]]),
    "a table that is missing": lambda file: repacked(file, {"catalogue/models.jsonl": None}),
    "a ledger that is none": lambda file: repacked(file, {"home/ledger/manifest.json": b"{"}),
    "a segment of others": lambda file: repacked(file, {"home/ledger/late/1.parquet": b"PAR1"}),
    "outcomes that are none": lambda file: repacked(file, {"home/outcomes/late/1.parquet": b"P"}),
    "a folder that is a file": lambda file: repacked(
        file, without(file, "home/spool") | {"home/spool": b"x"}
    ),
}


def write_ledger(home: Path, rows: int) -> None:
    """A ledger of one segment, with a spool and outcomes."""
    for folder in ("ledger/late", "spool/host-1", "outcomes/late"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": [f"{rows}-{n}" for n in range(rows)]})
    pq.write_table(table, home / "ledger/late/1.parquet")
    pq.write_table(table, home / "outcomes/late/1.parquet")
    segment = Segment(
        file="late/1.parquet", model="late", version="1", day="2026-11-28", rows=rows, size_bytes=1
    )
    (home / "ledger/manifest.json").write_bytes(msgspec.json.encode(Manifest(segments=[segment])))
    (home / "spool/host-1/00000001.blocks").write_bytes(b"block" * rows)
    (home / "private.key").write_bytes(bytes([rows]) * 32)


def files_of(home: Path) -> dict[str, bytes]:
    """The ledger as files."""
    return {
        str(file.relative_to(home)): file.read_bytes()
        for name in (*LEDGER_FOLDERS, "private.key")
        for file in sorted([home / name, *(home / name).rglob("*")])
        if file.is_file()
    }


@pytest.fixture
def full(home, tmp_path):
    """A backup with a ledger, and another home with other rows and another ledger."""
    write_ledger(home.home, 5)
    take(home, tmp_path / "full.tar", with_ledger=True)
    other = settings_of(tmp_path / "other")
    open_keys(other).create("first", [Permission.parse("keys")], by="eve")
    write_ledger(other.home, 3)
    return tmp_path / "full.tar", other


@pytest.mark.parametrize("damage", first_of(DAMAGED.values()), ids=list(DAMAGED))
def test_what_cannot_be_restored_is_found_before_anything_is_moved(full, damage):
    archive, other = full
    rows_before, files_before = dump(other), files_of(other.home)
    damage(archive)
    for options in ({"is_trial": True}, {"force": True}):  # a trial says the same
        with pytest.raises(Untrusted):
            put(other, archive, **options)
        assert dump(other) == rows_before
        assert files_of(other.home) == files_before
        assert not (other.home / ".restoring").exists()


def test_a_small_archive_that_unpacks_to_gigabytes_is_refused(full, tmp_path):
    _, other = full
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz", compresslevel=1) as opened:
        member = tarfile.TarInfo("catalogue/events.jsonl")
        member.size = 4 << 30
        opened.fileobj.write(member.tobuf())
        opened.fileobj.write(bytes(8 << 20))
    with pytest.raises(TooLarge, match="times its size"):
        put(other, tmp_path / "bomb.tar.gz", force=True)


@pytest.mark.slow
def test_a_trial_says_whether_force_is_needed(full, archive, tmp_path):
    _, other = full
    assert put(other, archive, is_trial=True).needs_force
    assert not put(other, archive, is_trial=True, force=True).needs_force
    assert not put(settings_of(tmp_path / "empty"), archive, is_trial=True).needs_force


def test_a_ledger_takes_the_place_of_all_of_another(home, full, tmp_path):
    _, other = full
    shutil.rmtree(home.home / "outcomes")
    take(home, tmp_path / "without.tar", with_ledger=True)
    put(other, tmp_path / "without.tar", force=True)
    put(empty := settings_of(tmp_path / "empty"), tmp_path / "without.tar")
    assert files_of(other.home) == files_of(home.home) == files_of(empty.home)


# -- kills --


def models_of(settings: Settings) -> list[str]:
    """The models that a user sees; none where there is no catalogue."""
    try:
        return [model.name for model in open_registry(settings).models()]
    except NotFound:
        return []


STEPS = """
import os, signal, sys
from pathlib import Path
from tests.unit.backups.test_backups import put, settings_of
import shutil
from bascule.backups import restoring, rows
from bascule.catalogue import Catalogue
left = [int(sys.argv[3])] if sys.argv[3].isdecimal() else [10**9]
def counted(owner, name):
    real = getattr(owner, name)
    def act(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0 or name == sys.argv[3]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(owner, name, act)
for owner, name in [
    (os, "rename"), (os, "replace"), (os, "mkdir"), (os, "sync"), (shutil, "rmtree"),
    (Catalogue, "read"), (Catalogue, "write"), (rows, "copy_in"), (rows, "is_empty"),
    (rows, "_insert"),
    (restoring, "_checked"), (restoring, "_put_objects"), (restoring, "_commit"),
    (restoring, "_settled"), (restoring, "_move_ledger"),
]:
    counted(owner, name)
put(settings_of(Path(sys.argv[1])), Path(sys.argv[2]), force=True)
"""


def killed_at(settings: Settings, archive: Path, step: int | str) -> bool:
    """Restore with `force` in a process that is killed at a step, by number or name; if it was."""
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(settings.home), str(archive), str(step)],
        cwd=root, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("step", ["_insert", "rename", "_put_objects", "replace"])
def test_a_restore_that_is_killed_shows_nothing_and_is_finished_by_the_next(
    home, archive, tmp_path, step
):
    other = settings_of(tmp_path / "other")
    assert killed_at(other, archive, step)
    assert models_of(other) == []
    put(other, archive)
    assert dump(other) == dump(home)
    assert {path.name for path in other.home.iterdir()} <= {
        "catalogue.db", "catalogue.db-wal", "catalogue.db-shm", "objects"
    }  # fmt: skip


def check_killed(home, full, tmp_path, step) -> str:
    """Which of both states is there after a kill at a step: `old`, `new`, or `done`, not killed."""
    archive, other = full
    start = tmp_path / f"start-{step}"
    shutil.copytree(other.home, start)
    before, settings = (dump(other), files_of(other.home)), settings_of(start)
    if not killed_at(settings, archive, step):
        return "done"
    open_outcomes(settings)  # what opens any of it first ends the restore
    found = dump(settings), files_of(start)
    assert found in (before, (dump(home), files_of(home.home))), f"half at step {step}"
    put(settings, archive, force=True)
    assert not (start / ".restoring").exists()
    assert (dump(settings), files_of(start)) == (dump(home), files_of(home.home))
    return "old" if found == before else "new"


@pytest.mark.parametrize(("step", "state"), first_of([("copy_in", "old"), ("_move_ledger", "new")]))
def test_a_restore_that_is_killed_leaves_all_or_nothing_of_it(home, full, tmp_path, step, state):
    assert check_killed(home, full, tmp_path, step) == state


@pytest.mark.slow
def test_a_restore_that_is_killed_at_any_step_leaves_the_old_state_or_the_new_one(
    home, full, tmp_path
):
    found, step = [], 0
    while not found or found[-1] != "done":
        found.append(check_killed(home, full, tmp_path, step))
        step += 1
    assert found == [*sorted(found[:-1], reverse=True), "done"]  # and never back
    assert {"old", "new"} < set(found)


@pytest.mark.slow
def test_a_restore_into_another_home_keeps_what_a_killed_one_has_still_to_move(
    home, full, tmp_path, monkeypatch
):
    """Both write one catalogue, and the backup of the second has the note of the first too."""
    archive, shared = full
    catalogue, objects = open_catalogue(shared, settles=False), open_objects(shared)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "_move_ledger", interrupted)
        with pytest.raises(KeyboardInterrupt):
            restore(archive, catalogue, objects, tmp_path / "one", force=True)
    take(shared, tmp_path / "noted.tar")

    restore(tmp_path / "noted.tar", catalogue, objects, tmp_path / "two", force=True)

    assert not (tmp_path / "one" / "ledger").exists()
    settle(tmp_path / "one", catalogue)
    assert files_of(tmp_path / "one") == files_of(home.home)
    assert dump(shared)["leases"] == dump(home)["leases"]


# -- the ledger --


def test_a_ledger_that_has_no_files_is_none(home, tmp_path):
    assert not take(home, tmp_path / "late.tar", with_ledger=True).has_ledger


def test_the_tables_are_those_that_the_catalogue_has(tmp_path):
    catalogue = Catalogue(SqliteDatabase(tmp_path / "catalogue.db"))
    catalogue.create()
    with catalogue.read() as connection:
        found = set(sa.inspect(connection).get_table_names())
    assert found - {"alembic_version"} == rows.tables_of(HEAD)
