"""`apply`: what differs is changed, a second run changes nothing, and errors name their place."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from tests.scenarios.commands import bascule, run
from tests.unit.cli.test_remote_registry import control
from tests.unit.registry.conftest import write_bundle

from bascule.app import open_alerts, open_books, open_endpoints, open_keys, open_registry
from bascule.configuring import Line, apply, parse_document, read_document, with_folder
from bascule.core import BasculeError, Conflict, Invalid, NotFound, Refused
from bascule.release.rollouts import RolloutRequest
from bascule.security import Permission
from bascule.settings import Settings

UNTIL = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)

DOCUMENT = f"""
version: 1
endpoints:
  late:
    version: late/1
  late-test:
    plan:
      arms:
        - {{name: current, version: late/1, share_percent: 90}}
        - {{name: candidate, version: late/2, share_percent: 10}}
      shadow: {{version: late@champion, share_percent: 5}}
schedules:
  nightly:
    cron: "0 2 * * *"
    timezone: Europe/Paris
    job: {{model: late@champion, from: rows/*.parquet, to: scored/}}
keys:
  web:
    allow: ["infer:late", "read:late"]
    expires_at: {UNTIL.isoformat()}
silences:
  maintenance:
    model: late
    until: {UNTIL.isoformat()}
    why: the data centre moves
"""


@pytest.fixture
def settings(tmp_path):
    made = Settings(home=tmp_path / "home")
    registry = open_registry(made)
    for number in (1, 2):
        bundle = write_bundle(tmp_path / f"bundle{number}", "late", b"program %d" % number)
        registry.push(bundle, by="ada")
    registry.set_alias("late", "champion", 2, by="ada")
    return made


@pytest.fixture
def file(tmp_path):
    (tmp_path / "bascule.yaml").write_text(DOCUMENT)
    return tmp_path / "bascule.yaml"


def applied(settings, document, **options):
    """Places and sentences of what is changed."""
    made = parse_document(document) if isinstance(document, dict) else document
    return apply(made, open_books(settings), by="ada", **options)


def everything(file):
    return with_folder(read_document(file), file.parent)


def test_the_first_run_makes_everything_and_the_second_changes_nothing(settings, file):
    first = applied(settings, everything(file))
    assert [one.place for one in first.changes] == [
        "keys.web", "endpoints.late", "endpoints.late-test", "schedules.nightly",
        "silences.maintenance",
    ]  # fmt: skip
    assert list(first.tokens) == ["web"]
    assert not applied(settings, everything(file)).changes
    plan = next(
        one.current.plan for one in open_endpoints(settings).endpoints() if one.name == "late-test"
    )
    assert [(arm.version, arm.share_percent) for arm in plan.arms] == [
        ("late/1", 90.0), ("late/2", 10.0)
    ]  # fmt: skip
    assert plan.shadow is not None
    assert plan.shadow.version == "late/2"
    assert [one.model for one in open_alerts(settings).silences(datetime.now(UTC))] == ["late"]


def test_a_dry_run_says_the_same_sentences_and_changes_nothing(settings, file):
    said = applied(settings, everything(file), dry_run=True)
    assert not said.applied
    assert not open_endpoints(settings).endpoints()
    assert not open_keys(settings).stored()
    assert applied(settings, everything(file)).changes == said.changes


def test_what_is_not_named_is_left_alone(settings, file):
    applied(settings, everything(file))
    assert not applied(settings, {"version": 1}).changes
    assert len(open_endpoints(settings).endpoints()) == 2


def test_absent_entries_are_removed_and_stay_removed(settings, file):
    applied(settings, everything(file))
    gone = {
        "version": 1,
        "endpoints": {"late-test": {"absent": True}},
        "schedules": {"nightly": {"absent": True}},
        "keys": {"web": {"absent": True}},
    }
    assert [one.place for one in applied(settings, gone).changes] == [
        "keys.web", "endpoints.late-test", "schedules.nightly"
    ]  # fmt: skip
    assert not applied(settings, gone).changes
    assert [one.name for one in open_endpoints(settings).endpoints()] == ["late"]


def test_another_version_is_deployed_instead(settings, file):
    applied(settings, everything(file))
    made = applied(settings, {"version": 1, "endpoints": {"late": {"version": "late@champion"}}})
    assert made.changes == [
        Line(
            "endpoints.late",
            "deploy late/2 to late (all): it answers every request instead of late/1, by plan 2",
        )
    ]


def test_a_canary_under_way_to_the_version_is_no_difference_and_to_another_a_conflict(settings):
    applied(settings, {"version": 1, "endpoints": {"late": {"version": "late/1"}}})
    canary = {"version": "late/2", "deploy": {"strategy": "canary", "guards": ["errors +1 pp"]}}
    wanted = {"version": 1, "endpoints": {"late": canary}}
    assert len(applied(settings, wanted).changes) == 1
    assert not applied(settings, wanted).changes
    plan = {"plan": {"arms": [{"name": "current", "version": "late/2", "share_percent": 100}]}}
    with pytest.raises(Conflict, match=r"endpoints\.late: rollout late-.* is under way"):
        applied(settings, {"version": 1, "endpoints": {"late": plan}})


def test_an_endpoint_that_follows_an_alias_is_left_to_its_moves(settings):
    wanted = {"version": 1, "endpoints": {"late": {"follow": "late@champion"}}}
    assert len(applied(settings, wanted).changes) == 1
    open_registry(settings).set_alias("late", "champion", 1, by="ada")
    assert not applied(settings, wanted).changes  # a server deploys the move
    (found,) = open_endpoints(settings).endpoints()
    assert found.follows == "late@champion"
    none = {"version": 1, "endpoints": {"late": {"version": "late/2", "follow": "none"}}}
    assert "follow none" in applied(settings, none).changes[0].sentence
    assert not applied(settings, none).changes


def test_rights_of_a_key_change_and_its_token_stays(settings, file):
    (token,) = applied(settings, everything(file)).tokens.values()
    less = {"version": 1, "keys": {"web": {"allow": ["infer:late"]}}}
    made = applied(settings, less)
    assert made.changes == [
        Line("keys.web", "let key web allow infer:late, instead of infer:late, read:late")
    ]
    assert not made.tokens
    (key,) = open_keys(settings).stored()
    assert (key.id, key.expires_at) == (token.split("_")[1], None)
    assert not applied(settings, less).changes


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"paused": True}, "pause schedule nightly"),
        ({"cron": "0 3 * * *"}, "change schedule nightly: cron 0 2 * * * -> 0 3 * * *"),
        ({"job": {"model": "late", "from": "a", "to": "b"}}, "change schedule nightly: its job"),
    ],
)
def test_a_schedule_changes_in_the_fields_that_differ(settings, change, sentence):
    job = {"model": "late@champion", "from": "rows", "to": "scored/"}
    before = {"cron": "0 2 * * *", "job": job, "folder": "/srv"}
    applied(settings, {"version": 1, "schedules": {"nightly": before}})
    after = {"version": 1, "schedules": {"nightly": before | change}}
    assert applied(settings, after).changes == [Line("schedules.nightly", sentence)]
    assert not applied(settings, after).changes


# -- errors --


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({}, "version: None is not 1"),
        ({"version": 1, "endpoint": {}}, "endpoint: is not known"),
        ({"version": 1, "endpoints": []}, "endpoints: a mapping by name is expected"),
        ({"version": 1, "endpoints": {"late": {}}}, "endpoints.late: one of version"),
        (
            {"version": 1, "endpoints": {"late": {"version": "late/1", "deploi": {}}}},
            "endpoints.late: contains unknown field deploi",
        ),
        (
            {"version": 1, "endpoints": {"late": {"plan": {"arms": [{"name": "current"}]}}}},
            "endpoints.late.plan.arms[0]: missing required field version",
        ),
        (
            {"version": 1, "schedules": {"n": {"cron": 5}}},
            "schedules.n.cron: Expected str, got int",
        ),
        ({"version": 1, "keys": {"web": {"allow": []}}}, "keys.web: one of allow and absent"),
        (
            {"version": 1, "silences": {"m": {"until": "2027-01-01T00:00:00", "why": "x"}}},
            "silences.m: until: a time zone is required",
        ),
    ],
)
def test_an_error_names_the_place_of_the_value(document, place):
    with pytest.raises(Invalid) as problem:
        parse_document(document)
    assert place in problem.value.message


def test_every_wrong_place_is_named_at_once():
    with pytest.raises(Invalid) as problem:
        parse_document({"version": 1, "endpoints": {"a": {}, "b": {}}, "keys": {"c": {}}})
    assert all(place in problem.value.message for place in ("endpoints.a", "endpoints.b", "keys.c"))


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    (file := tmp_path / "b.yaml").write_text("version: 1\nkeys:\n  a: {}\n  a: {}\n")
    with pytest.raises(Invalid, match="the key 'a' is there twice"):
        read_document(file)


@pytest.mark.parametrize(
    ("document", "kind", "said"),
    [
        ({"endpoints": {"late": {"version": "late/9"}}}, NotFound, "endpoints.late: "),
        (
            {"schedules": {"n": {"cron": "x", "job": {"model": "a", "from": "b", "to": "c"},
                                 "folder": "/"}}},
            Invalid, "schedules.n: cron: 'x' cannot be read",
        ),
        (
            {"schedules": {"n": {"cron": "0 2 * * *", "job": {"modl": "a"}, "folder": "/"}}},
            Invalid, "schedules.n: job",
        ),
        ({"keys": {"web": {"allow": ["fly:late"]}}}, Invalid, "keys.web: permission 'fly:late'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_changed(settings, document, kind, said):
    good = {"keys": {"good": {"allow": ["read:late"]}}}
    merged = {"version": 1, **document, "keys": {**good["keys"], **document.get("keys", {})}}
    with pytest.raises(kind) as problem:
        applied(settings, merged)
    assert problem.value.message.startswith(said)
    assert not open_keys(settings).stored()


def test_rights_are_asked_for_before_anything_is_looked_up(settings, file):
    asked = []

    def authorise(action, model):
        asked.append((action, model))
        if action == "keys":
            raise Refused("no")

    with pytest.raises(Refused, match=r"keys\.web: no"):
        applied(settings, everything(file), authorise=authorise)
    assert asked == [("keys", "")]
    asked.clear()
    nothing = {"version": 1, "endpoints": {"late": {"version": "other/9"}}}
    with pytest.raises(BasculeError):
        applied(settings, nothing, authorise=lambda *right: asked.append(right))
    assert asked == [("deploy", "late"), ("deploy", "other")]


def test_a_run_that_fails_in_the_middle_is_finished_by_the_next(settings, file, monkeypatch):
    def fail(*_args, **_more):
        raise Conflict("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("bascule.jobs.Schedules.put", fail)
        with pytest.raises(Conflict, match=r"schedules\.nightly: .*3 of 5 changes were made"):
            applied(settings, everything(file))
    made = applied(settings, everything(file))
    assert [one.place for one in made.changes] == ["schedules.nightly", "silences.maintenance"]


# -- the command --


def test_the_command_shows_the_difference_applies_and_then_has_nothing_to_do(
    settings, file, tmp_path
):
    code, out, _ = run(settings.home, "apply", "-f", file, "--diff")
    assert code == 1
    assert "endpoints.late: deploy late/1 to late" in out
    assert "5 changes would be made" in out
    code, _, errors = run(settings.home, "apply", "-f", file)
    assert (code, "--tokens FILE" in errors) == (2, True)
    tokens = tmp_path / "tokens.json"
    made = bascule(settings.home, "apply", "-f", file, "--tokens", tokens)
    assert (made["applied"], len(made["changes"])) == (True, 5)
    assert "tokens" not in made
    assert tokens.stat().st_mode & 0o777 == 0o600
    assert json.loads(tokens.read_text())["web"].startswith("bsc_")
    assert run(settings.home, "apply", "-f", file)[:2] == (0, "nothing to change\n")
    assert run(settings.home, "apply", "-f", file, "--diff")[0] == 0


def test_a_document_keeps_its_meaning_as_json(file):
    document = everything(file)
    assert parse_document(json.loads(json.dumps(document.to_json()))) == document


def test_a_rollout_request_knows_every_field_of_deploy():
    from bascule.configuring.document import DeploySpec

    assert set(DeploySpec.__struct_fields__) <= set(RolloutRequest.__struct_fields__)


def test_over_a_server_the_same_document_makes_the_same_changes(settings, file, tmp_path):
    file.write_text(DOCUMENT.replace("    timezone: Europe/Paris", "    folder: /srv/jobs"))
    with control(settings.home) as url:
        code, out, _ = run(settings.home, "--server", url, "apply", "-f", file, "--diff")
        assert (code, "5 changes would be made" in out) == (1, True)
        tokens = tmp_path / "tokens.json"
        words = ("--server", url, "apply", "-f", file, "--tokens", tokens, "--reason", "set up")
        assert run(settings.home, *words)[0] == 0
        assert list(json.loads(tokens.read_text())) == ["web"]
        assert run(settings.home, "--server", url, "apply", "-f", file)[:2] == (
            0, "nothing to change\n"
        )  # fmt: skip
        file.write_text("version: 1\nendpoints: {late: {version: late/9}}\n")
        code, _, errors = run(settings.home, "--server", url, "apply", "-f", file)
        assert (code, "endpoints.late: " in errors) == (3, True)
    history = open_endpoints(settings).history("late")
    assert [one.reason for one in history] == ["set up"]


def test_over_a_server_with_keys_each_entry_takes_its_right(settings, file):
    _, token = open_keys(settings).create("ci", [Permission.parse("deploy:late")], by="ada")
    file.write_text("version: 1\nendpoints: {late: {version: late/1}}\n")
    with control(settings.home, BASCULE_SECURITY__CALLERS="keys") as url:
        words = ("--server", url, "apply", "-f", file)
        assert run(settings.home, *words)[0] == 1
        assert run(settings.home, *words, BASCULE_KEY=token)[0] == 0
        file.write_text("version: 1\nkeys: {root: {allow: [keys]}}\n")
        code, _, errors = run(settings.home, *words, "--diff", BASCULE_KEY=token)
        assert (code, "keys.root: key ci" in errors) == (1, True)
