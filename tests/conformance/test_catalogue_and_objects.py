"""What every catalogue and every store of objects must keep, on real servers.

A new adapter is found here by itself: the cases run over the tables of built-ins of `settings`.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from tests.stores import PASSWORD, S3_SECRET, all_tables, open_stores

from bascule.bundle.disk.folder import (
    digest_of,
    read_manifest,
    read_statements,
    write_file,
    write_manifest,
    write_statement,
)
from bascule.bundle.disk.manifest import Manifest, OriginalEntry
from bascule.core.errors import Conflict, Invalid, NotFound, Refused, Unavailable, Untrusted
from bascule.core.fields import DType, Field, Signature
from bascule.registry import CatalogueKeys, Registry
from bascule.security import Permission
from bascule.settings import CATALOGUES, OBJECTS, load_settings

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
_SERVERS = {"sqlite": None, "files": None, "postgresql": "postgresql_url", "s3": "s3_url"}


def write_bundle(folder: Path, content: bytes, name: str = "late") -> Path:
    folder.mkdir(parents=True)
    files = {
        "original/model.onnx": write_file(folder, "original/model.onnx", content),
        "environment.txt": write_file(folder, "environment.txt", b"# python 3.11\n"),
    }
    signature = Signature((Field("x", DType.FP32, (3,)),), (Field("y", DType.FP32),))
    original = OriginalEntry("original/model.onnx", "onnx", {}, {})
    write_manifest(
        folder,
        Manifest(name, "onnx", "other", None, signature, original, (), "original", files),
    )
    (folder / "card.md").write_text("# a card\n")
    return folder


def address(request: pytest.FixtureRequest, kind: str) -> str:
    server = _SERVERS[kind]
    return kind if server is None else str(request.getfixturevalue(server))


@pytest.fixture(params=list(CATALOGUES))
def store(request: pytest.FixtureRequest) -> str:
    """The address of an empty catalogue."""
    return address(request, request.param)


@pytest.fixture(params=list(OBJECTS))
def objects(request: pytest.FixtureRequest) -> str:
    """The address of an empty place for bundles."""
    return address(request, request.param)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    def make(content: bytes = b"", name: str = "late") -> Path:
        mark = secrets.token_hex(4)
        return write_bundle(tmp_path / "bundles" / mark, content or mark.encode(), name)

    return make


@pytest.fixture
def registry(home: Path, store: str) -> Registry:
    """A registry whose bundles are files, on each catalogue."""
    return open_stores(home, store)


@pytest.fixture
def keeper(home: Path, objects: str) -> Registry:
    """A registry whose catalogue is SQLite, on each store of objects."""
    return open_stores(home, objects=objects)


def gates(*, passed: bool) -> dict[str, Any]:
    return {"passed": passed, "results": [{"criterion": "c", "passed": passed, "reason": "r"}]}


def in_database(registry: Registry) -> sa.Engine:
    return registry._records._catalogue._database.engine  # type: ignore[attr-defined, no-any-return]


# -- every catalogue --


def test_reading_before_the_first_push_creates_nothing_and_says_so(registry, home):
    for read in (registry.models, lambda: registry.resolve("late")):
        with pytest.raises(NotFound, match="no registry at"):
            read()
    assert not home.exists()


def test_versions_aliases_and_history_come_back_as_they_were_written(registry, bundle):
    first, second = registry.push(bundle(), by="ada"), registry.push(bundle(), by="bob")
    registry.set_alias("late", "champion", 1, by="ada", reason="ünder tëst; 'quotes' --")
    registry.set_alias("late", "champion", 2, by="bob")
    registry.drop_alias("late", "champion", by="ada", reason="retiring")

    assert [str(found) for found in registry.versions("late")] == ["late/1", "late/2"]
    assert registry.resolve("late") == second
    assert registry.resolve("late/1") == first
    assert first.pushed_at.tzinfo is UTC
    assert [
        (event.kind, event.number, event.from_number, event.to_number, event.by, event.reason)
        for event in registry.history("late")
    ] == [
        ("pushed", 1, None, None, "ada", ""),
        ("pushed", 2, None, None, "bob", ""),
        ("alias_moved", 1, None, 1, "ada", "ünder tëst; 'quotes' --"),
        ("alias_moved", 2, 1, 2, "bob", ""),
        ("alias_dropped", 2, 2, None, "ada", "retiring"),
    ]
    with pytest.raises(NotFound, match="no alias 'champion'"):
        registry.drop_alias("late", "champion", by="eve")


def test_the_verdict_told_last_counts_and_statements_are_kept_once(registry, bundle):
    version = registry.push(bundle(), by="ada")
    for passed, day in ((False, 2), (True, 3), (True, 3), (False, 1)):
        registry.add_statement(
            version, "gates", gates(passed=passed), at=T0.replace(day=day), by="ci"
        )
        assert registry.resolve("late/1").gates == ("passed" if passed else "failed")
    assert [str(one.version) for one in registry.search("gates = failed")] == ["late/1"]
    assert [said.at[:10] for said in registry.statements(version)] == [
        "2026-03-01",
        "2026-03-02",
        "2026-03-03",
    ]
    assert [event.kind for event in registry.history("late")].count("gates_recorded") == 3


def test_a_pass_that_a_bundle_brings_counts_until_the_registry_is_told_of_a_check(registry, bundle):
    source = bundle()
    write_statement(source, "gates", gates(passed=True), at=T0, by="ci")
    version = registry.push(source, by="ada")
    assert version.gates == "passed"
    assert [(one.brought_by, one.statement.by) for one in registry.checks(version)] == [
        ("ada", "ci")
    ]

    registry.add_statement(version, "gates", gates(passed=False), at=T0, by="bob")
    write_statement(source, "gates", gates(passed=True), at=T0.replace(day=20), by="ci")
    assert registry.push(source, by="ada").gates == "failed"
    assert [str(one.version) for one in registry.search("gates = failed")] == ["late/1"]
    assert [one.statement.by for one in registry.checks(version)] == ["bob"]
    assert len(registry.statements(version, "gates")) == 3


def test_a_failed_transaction_leaves_nothing(registry, bundle):
    version = registry.push(bundle(), by="ada")
    registry.add_statement(version, "gates", gates(passed=False), at=T0, by="ci")
    before = registry.history("late")

    with pytest.raises(Refused):
        registry.set_alias("late", "champion", 1, by="ada")
    assert (registry.aliases("late"), registry.history("late")) == ({}, before)


@pytest.mark.parametrize(
    ("expected", "moves"), [(1, True), (2, False), (None, False)], ids=["right", "wrong", "new"]
)
def test_a_conditional_move_happens_only_from_where_it_was_expected(
    registry, bundle, expected, moves
):
    for _ in range(3):
        registry.push(bundle(), by="ada")
    registry.set_alias("late", "champion", 1, by="ada", expected=None)

    if moves:
        registry.set_alias("late", "champion", 3, by="bob", expected=expected)
    else:
        with pytest.raises(Conflict, match="points to late/1"):
            registry.set_alias("late", "champion", 3, by="bob", expected=expected)
    assert registry.aliases("late")["champion"].number == (3 if moves else 1)


def test_of_those_who_saw_the_same_alias_only_one_may_move_it(home, store, bundle):
    registry = open_stores(home, store)
    for _ in range(6):
        registry.push(bundle(), by="ada")
    registry.set_alias("late", "champion", 1, by="ada")
    barrier, told = threading.Barrier(5), []

    def move(to: int) -> None:
        own = open_stores(home, store)
        barrier.wait()
        try:
            own.set_alias("late", "champion", to, by=str(to), expected=1)
            told.append(to)
        except Conflict:
            pass

    threads = [threading.Thread(target=move, args=(to,)) for to in range(2, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(told) == 1
    assert registry.aliases("late")["champion"].number == told[0]


def test_a_reader_sees_one_moment_while_others_write(registry, bundle):
    registry.push(bundle(), by="ada")
    with registry._records.read() as book:
        before = book.versions("late")
        registry.push(bundle(), by="bob")
        assert book.versions("late") == before
    assert len(registry.versions("late")) == 2


def test_the_migrations_make_the_tables_that_the_code_speaks_of(registry, bundle):
    registry.push(bundle(), by="ada")
    with in_database(registry).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), all_tables()) == []


def test_a_catalogue_of_a_newer_release_is_refused_and_names_it(home, store, bundle):
    registry = open_stores(home, store)
    registry.push(bundle(), by="ada")
    with in_database(registry).execution_options(writes=True).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(Untrusted, match="schema 9999"):
        open_stores(home, store).models()


def test_names_that_differ_in_case_only_are_two_names(registry, bundle):
    registry.push(bundle(name="Late"), by="ada")
    registry.push(bundle(name="late"), by="ada")

    assert [model.name for model in registry.models()] == ["Late", "late"]


# -- every store of objects --


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def elsewhere(home: Path, objects: str, tmp_path: Path) -> Registry:
    """The same registry as another machine sees it: no copies of bundles but those in the store."""
    import shutil

    other = tmp_path / "elsewhere"
    other.mkdir()
    for file in home.glob("catalogue.db*"):
        shutil.copy(file, other)
    if objects == "files":
        objects = f"files://{home / 'objects'}"
    return open_stores(other, objects=objects)


def stored(keeper: Registry, digest: str, name: str) -> Callable[[bytes | None], None]:
    """Damages a file where it is kept: other bytes, or none."""

    def change(content: bytes | None) -> None:
        objects: Any = keeper._objects
        if hasattr(objects, "_store"):
            import obstore

            key = f"{digest.removeprefix('sha256:')}/{name}"
            if content is None:
                obstore.delete(objects._store, key)
            else:
                obstore.put(objects._store, key, content)
            return
        file = objects._root / digest.removeprefix("sha256:") / name
        file.chmod(0o644)
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)

    return change


def test_a_bundle_comes_back_whole_on_another_machine(keeper, bundle, home, objects, tmp_path):
    source = bundle(b"x" * 3_000_000)
    write_statement(source, "audit", {"latency": 1}, at=T0, by="ada")
    version = keeper.push(source, by="ada")

    kept = elsewhere(home, objects, tmp_path).path(version)
    assert names(kept) == names(source)
    assert read_manifest(kept).digest == version.digest == digest_of(source)
    assert [said.kind for said in read_statements(kept)] == ["audit"]
    assert all(not file.stat().st_mode & 0o222 for file in kept.rglob("*") if file.is_file())


def test_an_altered_bundle_is_refused_and_nothing_of_it_is_kept(keeper, bundle, home):
    source = bundle(b"before")
    (source / "original/model.onnx").write_bytes(b"after!")

    with pytest.raises(Untrusted, match=r"model\.onnx"):
        keeper.push(source, by="ada")
    assert keeper._objects.digests() == {}


@pytest.mark.parametrize("content", [b"after!", None], ids=["altered", "removed"])
@pytest.mark.parametrize("name", ["bundle.json", "original/model.onnx"])
def test_what_was_altered_in_the_store_never_loads_and_the_next_push_mends_it(
    keeper, bundle, home, objects, tmp_path, name, content
):
    source = bundle(b"before")
    version = keeper.push(source, by="ada")
    stored(keeper, version.digest, name)(content)

    reader = elsewhere(home, objects, tmp_path)
    with pytest.raises((Untrusted, NotFound)):
        read_manifest(reader.path(version))

    keeper.push(source, by="ada")
    assert read_manifest(reader.path(version)).digest == version.digest


def test_a_bundle_whose_writer_died_before_the_end_is_not_there(keeper, bundle):
    version = keeper.push(bundle(), by="ada")
    stored(keeper, version.digest, "bundle.json")(None)

    with pytest.raises(NotFound, match="are missing from") as caught:
        elsewhere_objects(keeper).path(version.digest)
    assert "push" in caught.value.hint
    assert list(keeper._objects.digests()) == [version.digest], "its remains can be collected"


def elsewhere_objects(keeper: Registry) -> Any:
    """The objects without local copies."""
    objects: Any = keeper._objects
    if hasattr(objects, "_cache"):
        objects._cache.remove(next(iter(objects.digests())))
    return objects


def test_a_statement_about_what_is_not_there_is_not_kept(keeper):
    digest = "sha256:" + "0" * 64
    with pytest.raises(NotFound):
        keeper._objects.put_statement(digest, "gates-0.json", b"{}")
    assert keeper._objects.digests() == {}


def test_a_removed_bundle_is_gone_with_all_that_it_took(keeper, bundle):
    first, second = keeper.push(bundle(), by="ada"), keeper.push(bundle(), by="ada")
    assert keeper._objects.size_bytes(first.digest) > 0

    for _ in range(2):  # the second time there is nothing to do
        keeper._objects.remove(first.digest)
    assert list(keeper._objects.digests()) == [second.digest]
    assert keeper._objects.size_bytes(first.digest) == 0
    with pytest.raises(NotFound):
        keeper.path(first)
    read_manifest(keeper.path(second))


# -- servers that are away, or that say no: nothing of the way in is shown --


def said_by(action: Callable[[], object]) -> str:
    """The error, its hint, its facts and all that it was caused by, as a log would show them."""
    import traceback

    with pytest.raises((Unavailable, Invalid)) as caught:
        action()
    error = caught.value
    return "".join([error.message, error.hint, *traceback.format_exception(error)])


def test_a_wrong_password_is_told_and_not_shown(postgresql_url, home):
    wrong = postgresql_url.replace(PASSWORD, "a-wrong-one")
    text = said_by(open_stores(home, wrong).models)

    assert "does not let this user in" in text
    assert "a-wrong-one" not in text


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ada:{}@127.0.0.1:1/x",
        "postgresql://ada:{}@127.0.0.1:port/x",
        "postgresql://ada@127.0.0.1:1/x?password={}",
        "postgresql://ada:{}@/",
    ],
)
def test_an_address_that_leads_nowhere_is_told_without_its_password(home, address):
    assert PASSWORD not in said_by(lambda: open_stores(home, address.format(PASSWORD)).models())


def test_a_database_that_is_not_there_is_named(postgresql_url, home):
    missing = postgresql_url.rpartition("/")[0] + "/nowhere"
    text = said_by(open_stores(home, missing).models)

    assert "nowhere" in text
    assert PASSWORD not in text


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("AWS_SECRET_ACCESS_KEY", "a-wrong-one", "credentials do not allow"),
        ("AWS_ACCESS_KEY_ID", "nobody-known", "credentials do not allow"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "cannot be reached"),
    ],
)
def test_a_bucket_that_cannot_be_entered_is_told_without_keys(
    s3_url, home, bundle, monkeypatch, variable, value, told
):
    monkeypatch.setenv(variable, value)
    source = bundle()
    text = said_by(lambda: open_stores(home, objects=s3_url).push(source, by="ada"))

    assert told in text
    assert not any(secret in text for secret in ("a-wrong-one", "nobody-known", S3_SECRET))


@pytest.mark.parametrize("address", ["s3://", "s3://UPPER/x", "s3://id:key@models/x"])
def test_what_is_no_place_in_s3_is_refused(home, address):
    with pytest.raises(Invalid, match="not a place in S3") as caught:
        open_stores(home, objects=address)
    assert "key@" not in caught.value.message


def test_a_copy_that_is_here_serves_on_while_the_bucket_is_away(s3_url, home, bundle, monkeypatch):
    version = open_stores(home, objects=s3_url).push(bundle(), by="ada")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")

    read_manifest(open_stores(home, objects=s3_url).path(version))


# -- settings --


def test_the_address_of_the_store_is_in_no_text_of_the_settings():
    settings = load_settings(
        environ={"BASCULE_REGISTRY__STORE": f"postgresql://ada:{PASSWORD}@db/x"}
    )
    assert settings.registry.store.endswith("@db/x")
    assert PASSWORD not in repr(settings)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"BASCULE_REGISTRY__STORE": f"mysql://ada:{PASSWORD}@db/x"}, "'mysql://***@db/x'"),
        ({"BASCULE_REGISTRY__STORE": f"mysql://db/x?password={PASSWORD}"}, "mysql"),
        ({"BASCULE_REGISTRY": f"postgresql://ada:{PASSWORD}@db/x"}, "BASCULE_REGISTRY"),
    ],
)
def test_a_wrong_store_is_refused_with_its_origin_and_without_its_password(tmp_path, environ, told):
    with pytest.raises(Invalid) as caught:
        load_settings(tmp_path, environ)
    text = caught.value.message + caught.value.hint
    assert told in text
    assert "BASCULE_REGISTRY" in text
    assert PASSWORD not in text


# -- tags and searching, on every catalogue --


@pytest.fixture
def searched(registry: Registry, bundle: Callable[..., Path]) -> Registry:
    """Four versions: late/1 and late/2 of team risk, gb/1 that failed, late/3 that is retired."""
    figures = {"late": [0.80, 0.90, 0.95], "gb": [0.70]}
    for name, values in figures.items():
        for number, value in enumerate(values, start=1):
            source = bundle(name=name)
            body = {"metrics": {"roc_auc": value, "flag": True, "text": "x"}}
            write_statement(source, "provenance", body, at=T0, by="ada")
            version = registry.push(source, by="ada" if number == 1 else "bob")
            registry.set_tag(version, "team", "risk" if name == "late" else "it's", by="ada")
    registry.set_alias("late", "champion", 2, by="ada")
    failed = gates(passed=False)
    registry.add_statement(registry.resolve("gb/1"), "gates", failed, at=T0, by="ci")
    registry.set_tag("late/2", "audited", "yes", by="ada")
    registry.retire("late", 3, by="ada", reason="it leaks")
    return registry


SEARCHES = [
    ("", ["gb/1", "late/2", "late/1"]),
    ("metric.roc_auc >= 0.8", ["late/2", "late/1"]),
    ("metric.roc_auc > 0.8", ["late/2"]),
    ("metric.roc_auc <= 0.8", ["gb/1", "late/1"]),
    ("metric.roc_auc != 0.8", ["gb/1", "late/2"]),
    ("metric.flag", []),
    ("metric.roc_auc", ["gb/1", "late/2", "late/1"]),
    ("tag.team = risk", ["late/2", "late/1"]),
    ("tag.team != risk", ["gb/1"]),
    ('tag.team = "it\'s"', ["gb/1"]),
    ("tag.audited", ["late/2"]),
    ("tag.audited != yes", ["gb/1", "late/1"]),
    ("metric.roc_auc >= 0.8 tag.team = risk by = ada", ["late/1"]),
    ("model = gb", ["gb/1"]),
    ("model = g%", []),
    ("alias = champion", ["late/2"]),
    ("gates = failed", ["gb/1"]),
    ("gates = unchecked", ["late/2", "late/1"]),
    ("gates = passed", []),
    ("pushed >= 1d", ["gb/1", "late/2", "late/1"]),
    ("pushed < 1d", []),
    ("retired = yes", ["late/3"]),
    ("retired = any model = late", ["late/3", "late/2", "late/1"]),
]


def test_a_search_finds_what_meets_every_term(searched):
    for text, found in SEARCHES:
        assert [str(one.version) for one in searched.search(text)] == found, text


def test_a_search_finds_by_the_beginning_of_a_digest_and_tells_what_it_found(searched):
    version = searched.resolve("late/2")
    (one,) = searched.search(f"digest = {version.digest[7:15]}")

    assert one.version == version
    assert one.tags == {"audited": "yes", "team": "risk"}
    assert one.metrics == {"roc_auc": 0.9}


def test_a_search_stops_at_its_limit(searched):
    assert [str(one.version) for one in searched.search("", limit=2)] == ["gb/1", "late/2"]
    with pytest.raises(Invalid, match="limit"):
        searched.search("", limit=0)


def test_the_latest_figure_is_what_is_searched_by(searched):
    result = {"criterion": "roc_auc >= 0.5", "value": 0.6, "passed": True, "reason": "r"}
    version = searched.resolve("late/1")
    for value, day in ((0.99, 3), (0.5, 2)):  # said late, measured early
        body = {"passed": True, "results": [{**result, "value": value}]}
        searched.add_statement(version, "gates", body, at=T0.replace(day=day), by="ci")

    assert [str(one.version) for one in searched.search("metric.roc_auc >= 0.95")] == ["late/1"]


def test_tags_come_and_go_with_history(searched):
    before = len(searched.history("late"))
    searched.set_tag("late/1", "team", "risk", by="bob")  # it says so already
    searched.set_tag("late/1", "team", "fraud", by="bob")
    searched.set_tag("late/1", "team", None, by="ada")

    assert searched.tags("late/1") == {}
    assert [
        (event.kind, event.key, event.from_value, event.to_value, event.by)
        for event in searched.history("late")[before:]
    ] == [
        ("tag_set", "team", "risk", "fraud", "bob"),
        ("tag_unset", "team", "fraud", None, "ada"),
    ]
    with pytest.raises(NotFound, match="has no tag 'team'"):
        searched.set_tag("late/1", "team", None, by="ada")


def test_a_tag_that_cannot_be_one_is_refused(searched):
    refused = [("", "x"), ("a b", "x"), ("a", ""), ("a", "x" * 257), ("a", "x\0y"), ("ä", "x")]
    for key, value in refused:
        with pytest.raises(Invalid, match="not allowed"):
            searched.set_tag("late/1", key, value, by="ada")
    assert searched.set_tag("late/1", "a", "x" * 256, by="ada").to_value == "x" * 256


def test_versions_are_compared_through_the_registry(searched):
    changes = searched.compare("late/1", "late/2")
    assert [(one.before, one.after) for one in changes if one.name == "roc_auc"] == [(0.8, 0.9)]


def test_of_keys_of_one_name_that_are_made_at_once_one_is_kept(registry: Registry) -> None:
    keys, start = CatalogueKeys(registry._records), threading.Barrier(4)
    registry._records.create()

    def create(_: int) -> bool:
        start.wait()
        try:
            keys.create("ada", [Permission("read", "*")], by="root")
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(create, range(4))) == 1
    assert [key.name for key in keys.stored()] == ["ada"]
