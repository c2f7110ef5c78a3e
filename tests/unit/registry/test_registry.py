"""What a registry does; what every catalogue and store keeps is in `tests/conformance`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from bascule.bundle.disk.folder import write_statement
from bascule.core.errors import Invalid, NotFound, Refused, Unavailable, Untrusted
from bascule.registry import open_registry

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
READERS = {
    "models": lambda registry: registry.models(),
    "versions": lambda registry: registry.versions("late"),
    "aliases": lambda registry: registry.aliases("late"),
    "history": lambda registry: registry.history("late"),
    "resolve": lambda registry: registry.resolve("late"),
    "path": lambda registry: registry.path("late/1"),
    "set_alias": lambda registry: registry.set_alias("late", "champion", 1, by="ada"),
    "drop_alias": lambda registry: registry.drop_alias("late", "champion", by="ada"),
}


# Pushing


def test_versions_of_a_model_count_from_one(registry, bundle):
    pushed = [registry.push(bundle(name), by="ada") for name in ("late", "late", "gb", "late")]

    assert [str(version) for version in pushed] == ["late/1", "late/2", "gb/1", "late/3"]
    assert pushed[0].pushed_by == "ada"
    assert pushed[0].gates == "unchecked"


def test_pushing_the_same_bundle_again_gives_the_version_that_it_has(registry, bundle):
    first = registry.push(bundle(content=b"same"), by="ada")
    registry.push(bundle(content=b"other"), by="ada")

    assert registry.push(bundle(content=b"same"), by="bob") == first
    assert [event.kind for event in registry.history("late")] == ["pushed", "pushed"]


def test_pushing_what_is_no_bundle_creates_no_registry(registry, home, tmp_path):
    with pytest.raises(NotFound, match="no bundle"):
        registry.push(tmp_path, by="ada")
    assert not home.exists()


# References


def test_a_bare_name_means_the_newest_version_that_has_not_failed(registry, bundle):
    for passed in (True, None, False):
        registry.push(bundle(passed=passed), by="ada")

    assert [version.gates for version in registry.versions("late")] == [
        "passed",
        "unchecked",
        "failed",
    ]
    assert registry.resolve("late").number == 2
    assert registry.resolve("late/3").number == 3


def test_a_bare_name_of_which_every_version_failed_is_refused(registry, bundle):
    registry.push(bundle(passed=False), by="ada")
    registry.push(bundle(passed=False), by="ada")

    with pytest.raises(Refused, match="every version of 'late' has failed") as caught:
        registry.resolve("late")
    assert "late/2" in caught.value.hint


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("lates", "no model 'lates'; did you mean 'late'?"),
        ("LATE", "no model 'LATE'; did you mean 'late'?"),
        ("zzzz", "no model 'zzzz'; there is gb, late"),
        ("late@champoin", "no alias 'champoin' of model 'late'; did you mean 'champion'?"),
        ("late/2", "no version 2 of model 'late'; its newest is 1"),
    ],
)
def test_an_unknown_name_is_answered_with_what_there_is(registry, bundle, reference, message):
    registry.push(bundle("late"), by="ada")
    registry.push(bundle("gb"), by="ada")
    registry.set_alias("late", "champion", 1, by="ada")

    with pytest.raises(NotFound) as caught:
        registry.resolve(reference)
    assert caught.value.message == message
    assert caught.value.hint


# Aliases


def test_moving_an_alias_to_where_it_is_writes_nothing(registry, bundle):
    registry.push(bundle(), by="ada")
    registry.set_alias("late", "champion", 1, by="ada")
    before = registry.history("late")

    event = registry.set_alias("late", "champion", 1, by="bob")

    assert (event.from_number, event.to_number) == (1, 1)
    assert registry.history("late") == before


def test_an_alias_may_not_point_to_a_version_that_failed(registry, bundle):
    registry.push(bundle(passed=True), by="ada")
    registry.push(bundle(passed=False), by="ada")
    registry.set_alias("late", "champion", 1, by="ada")

    with pytest.raises(Refused, match=r"roc_auc >= 0\.8: 0\.5 is not >= 0\.8") as caught:
        registry.set_alias("late", "champion", 2, by="ada")
    assert caught.value.facts["number"] == 2
    assert registry.resolve("late@champion").number == 1


def test_an_unchecked_version_may_have_an_alias_unless_checks_are_required(registry, bundle, home):
    registry.push(bundle(), by="ada")
    registry.push(bundle(passed=True), by="ada")
    strict = open_registry(home, require_gates=True)

    assert registry.set_alias("late", "champion", 1, by="ada").to_number == 1
    with pytest.raises(Refused, match="has not been checked"):
        strict.set_alias("late", "production", 1, by="ada")
    assert strict.set_alias("late", "production", 2, by="ada").to_number == 2


def test_an_alias_to_nothing_is_refused(registry, bundle):
    registry.push(bundle(), by="ada")

    with pytest.raises(NotFound, match="no version 2"):
        registry.set_alias("late", "champion", 2, by="ada")
    with pytest.raises(Invalid, match="alias 'a/b' is not allowed"):
        registry.set_alias("late", "a/b", 1, by="ada")
    assert registry.aliases("late") == {}


def test_models_are_listed_with_their_newest_version_and_aliases(registry, bundle):
    for name in ("late", "late", "gb"):
        registry.push(bundle(name), by="ada")
    registry.set_alias("late", "champion", 1, by="ada")

    listed = registry.models()

    assert [(model.name, model.versions, str(model.newest)) for model in listed] == [
        ("gb", 1, "gb/1"),
        ("late", 2, "late/2"),
    ]
    assert {str(alias): alias.number for alias in listed[1].aliases.values()} == {
        "late@champion": 1
    }


# Statements


@pytest.mark.parametrize("body", [{"passed": "yes"}, {"passed": 1}, {}, {"passed": None}])
def test_a_verdict_that_is_neither_yes_nor_no_is_refused_and_changes_nothing(
    registry, bundle, now, body
):
    version = registry.push(bundle(), by="ada")
    registry.add_statement(version, "gates", {"passed": False}, at=now, by="ci")
    with pytest.raises(Untrusted, match="cannot be read as a statement of gates"):
        registry.add_statement(version, "gates", body, at=now + timedelta(days=1), by="ci")

    assert registry.resolve("late/1").gates == "failed"
    assert len(registry.statements(version, "gates")) == 1


def test_statements_added_to_a_bundle_after_its_push_come_with_the_next_one(registry, bundle, now):
    source = bundle()
    registry.push(source, by="ada")
    said = write_statement(source, "gates", {"passed": False}, at=now, by="ci")

    assert registry.push(source, by="ada").gates == "failed"
    assert registry.statements("late/1", "gates") == [said]
    assert registry.statements("late/1", "parity") == []


def test_a_statement_about_nothing_that_was_pushed_is_refused(registry, bundle, now):
    registry.push(bundle(), by="ada")

    with pytest.raises(NotFound, match="no version has the digest"):
        registry.add_statement("sha256:" + "0" * 64, "gates", {"passed": True}, at=now, by="ci")


@pytest.mark.parametrize("kind", ["../../evil", "", "Gates", "a" * 65])
def test_the_kind_of_a_statement_cannot_lead_out_of_its_folder(registry, bundle, now, kind):
    version = registry.push(bundle(), by="ada")

    with pytest.raises(Untrusted, match="not a word of small letters"):
        registry.add_statement(version, kind, {}, at=now, by="ci")


def test_a_statement_that_is_not_json_is_refused(registry, bundle, now):
    version = registry.push(bundle(), by="ada")

    with pytest.raises(Untrusted, match="cannot be kept"):
        registry.add_statement(version, "cost", {"ms": float("nan")}, at=now, by="ci")
    with pytest.raises(Untrusted, match="no time zone"):
        registry.add_statement(version, "cost", {}, at=now.replace(tzinfo=None), by="ci")


# The home


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_reading_where_there_is_no_registry_says_so_and_creates_none(registry, home, read):
    with pytest.raises(NotFound) as caught:
        read(registry)

    assert caught.value.message == f"no registry at {home}"
    assert caught.value.hint.startswith("bascule push BUNDLE makes one; ")
    assert not home.exists()


def test_an_empty_catalogue_left_by_a_killed_first_push_is_no_registry_yet(registry, home, bundle):
    home.mkdir()
    (home / "catalogue.db").touch()

    with pytest.raises(NotFound, match="no registry at"):
        registry.models()
    assert registry.push(bundle(), by="ada").number == 1


def test_a_home_holds_the_catalogue_and_the_objects_and_nothing_else(registry, home, bundle):
    registry.push(bundle(), by="ada")

    assert {path.name for path in home.iterdir()} == {"catalogue.db", "objects"}


def test_the_catalogue_is_durable_and_lets_readers_read_beside_a_writer(registry, home, bundle):
    registry.push(bundle(), by="ada")
    writer = sqlite3.connect(home / "catalogue.db", isolation_level=None)
    try:
        assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        writer.execute("BEGIN IMMEDIATE")
        assert registry.resolve("late").number == 1
    finally:
        writer.close()


def test_a_home_written_by_a_newer_release_is_refused_by_name(registry, home, bundle):
    registry.push(bundle(), by="ada")
    with closing(sqlite3.connect(home / "catalogue.db")) as newer, newer:
        newer.execute("UPDATE alembic_version SET version_num = '0099'")
        row = ("0099", "7.1.0", "2030-01-01 00:00:00.000000", None)
        newer.execute("INSERT INTO releases VALUES (?, ?, ?, ?)", row)
    newer.close()

    for use in (lambda r: r.models(), lambda r: r.push(bundle(), by="ada")):
        with pytest.raises(Untrusted) as caught:
            use(open_registry(home))
        assert "was written by Bascule 7.1.0 (schema 0099)" in caught.value.message
        assert caught.value.hint == "pip install 'bascule>=7.1.0'"


def test_a_catalogue_that_is_no_database_is_called_damaged(registry, home):
    home.mkdir()
    (home / "catalogue.db").write_bytes(b"not a database at all, only text" * 100)

    with pytest.raises(Untrusted, match="damaged"):
        registry.models()


def test_a_home_that_is_a_file_is_refused_in_one_sentence(registry, home, bundle):
    home.write_text("a file")

    with pytest.raises(Unavailable, match="cannot be used"):
        registry.push(bundle(), by="ada")


# -- which criteria an alias asks for --


def judged(registry, number, at, **results):
    """Record a check that judged these criteria."""
    names = {"roc": "roc_auc >= 0.8", "size": "size <= 20 MB", "zero": "accuracy >= 0"}
    body = {
        "passed": all(results.values()),
        "results": [{"criterion": names[name], "passed": met} for name, met in results.items()],
    }
    registry.add_statement(
        registry.resolve(f"late/{number}"), "gates", body, at=T0 + timedelta(seconds=at), by="ci"
    )


def test_a_pass_of_other_criteria_does_not_make_up_for_a_failure(bundle, home):
    registry = open_registry(home, criteria=("roc_auc >= 0.8", "size <= 20 MB"))
    registry.push(bundle(), by="ada")
    judged(registry, 1, 1, roc=False, size=True)
    judged(registry, 1, 2, zero=True)

    with pytest.raises(Refused, match=r"failed its gates: roc_auc >= 0\.8"):
        registry.set_alias("late", "champion", 1, by="ada")

    judged(registry, 1, 3, roc=True)
    assert registry.set_alias("late", "champion", 1, by="ada").to_number == 1


def test_a_failure_of_other_criteria_holds_until_all_configured_ones_are_judged(bundle, home):
    registry = open_registry(home, criteria=("roc_auc >= 0.8",))
    registry.push(bundle(), by="ada")
    judged(registry, 1, 1, zero=False)
    with pytest.raises(Refused, match="failed its gates: accuracy >= 0"):
        registry.set_alias("late", "champion", 1, by="ada")

    judged(registry, 1, 2, roc=True)
    judged(registry, 1, 3, zero=False)
    assert registry.set_alias("late", "champion", 1, by="ada").to_number == 1
