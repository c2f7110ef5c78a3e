"""Passports, as attackers and later evidence meet them; aliases and loads that require claims."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from tests.scenarios.test_bundle_signatures import write_key
from tests.unit.registry.conftest import T0, write_bundle

from bascule.app import check_signature
from bascule.bundle.disk import (
    Statement,
    check_claims,
    open_passport,
    parse_claim,
    read_manifest,
    sign_bundle,
    sign_passport,
    write_statement,
)
from bascule.control import Approval
from bascule.core import Invalid, Untrusted
from bascule.registry import Registry, open_registry
from bascule.release import claims_of
from bascule.settings import load_settings

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for name, curve in (("ada", ec.SECP256R1()), ("eve", ec.SECP521R1())):
        write_key(folder, name, ec.generate_private_key(curve))
    write_key(folder, "ed", ed25519.Ed25519PrivateKey.generate())
    return folder


def stated(kind, body, day=0):
    return Statement(kind, "sha256:" + "0" * 64, (T0 + day * DAY).isoformat(), "ci", body)


PARITY = stated("parity", {
    "program": "onnx", "precision": "float32", "rows": 50, "probes": 0, "max_difference": 1e-7,
    "label_differences": 0, "ties": 0, "tolerance": 1e-5, "passed": True, "reason": "equal",
})  # fmt: skip
PRIVACY = stated("privacy", {"epsilon": 2.5, "delta": 1e-5})
GATES = stated("gates", {"passed": True, "results": [
    {"criterion": "roc_auc >= 0.8", "value": 0.91, "passed": True},
    {"criterion": "robust_accuracy[linf=0.1] >= 0.8", "value": 0.83, "passed": True},
    {"criterion": "equalized_odds_difference[sex] <= 0.1", "value": 0.04, "passed": True},
]})  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return read_manifest(write_bundle(tmp_path_factory.mktemp("bundle") / "late"))


@pytest.fixture
def claims(manifest):
    """`claims(GATES)`: what a passport claims by these statements."""
    return lambda *statements, serves="onnx": claims_of(
        replace(manifest, serves=serves), statements
    )


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("parity", True),
        ("gates", True),
        ("privacy", True),
        ("fairness", False),
        ("rollouts", False),
        ("robust_accuracy[linf = 0.1] >= 0.8", True),
        ("epsilon <= 2.5", True),
        ("epsilon<2.5", False),
        ("privacy.epsilon <= 3", True),
        ("fairness.epsilon <= 3", False),
        ("roc_auc >= 0.91", True),
        ("roc_auc > 0.91", False),
        ("equalized_odds_difference[sex] <= 0.1", True),
        ("equalized_odds_difference[age] <= 0.1", False),
    ],
)
def test_a_claim_is_made_by_evidence_alone(claims, text, is_met):
    assert bool(parse_claim(text)(claims(PARITY, PRIVACY, GATES))) == is_met


@pytest.mark.parametrize("text", ["", "Parity", "epsilon <= nan", "signed by", "a = 3", "x <= 1 y"])
def test_what_is_no_claim_is_refused(text):
    with pytest.raises(Invalid, match="is no claim"):
        parse_claim(text)


def test_of_two_values_equally_deep_each_must_meet_the_limit(claims):
    twice = stated("audit", {"epsilon": 9.0})
    assert parse_claim("epsilon <= 3")(claims(PRIVACY, twice)) is False


def test_an_original_equals_itself_and_a_program_only_when_it_was_compared(claims):
    assert claims(serves="original")["parity"]["passed"]
    assert "parity" not in claims()
    failed = stated("parity", {**PARITY.body, "passed": False}, day=1)
    assert not claims(PARITY, failed)["parity"]["passed"]


@pytest.fixture
def folder(tmp_path):
    return write_bundle(tmp_path / "late")


def envelope(folder, keys, name="ada", *, now=T0, expires_at=None, **claims):
    return sign_passport(
        read_manifest(folder), {"gates": {"passed": True}, **claims}, keys / f"{name}.pem",
        now=now, by=name, expires_at=expires_at,
    )  # fmt: skip


def written(folder, keys, name="ada", **claims):
    """A passport in the folder of a bundle."""
    write_statement(folder, "passport", envelope(folder, keys, name, **claims), at=T0, by=name)


def refusal(body, folder, keys, *, now=T0, name="ada"):
    digest = read_manifest(folder).digest
    with pytest.raises(Untrusted) as caught:
        open_passport(body, digest, [keys / f"{name}.pub"], now=now)
    return caught.value.message


def test_a_passport_says_what_was_signed_on_every_curve(folder, keys):
    for name in ("ada", "eve"):
        body, digest = envelope(folder, keys, name), read_manifest(folder).digest
        said, key = open_passport(body, digest, [keys / "ada.pub", keys / "eve.pub"], now=T0)
        assert (key.stem, said["gates"]) == (name, {"passed": True})


def test_attacks_on_a_passport_are_refused(folder, keys, tmp_path):
    body = envelope(folder, keys)
    assert "none of the keys" in refusal(body, folder, keys, name="eve")  # a key taken off the list
    payload = json.loads(base64.b64decode(body["payload"]))
    payload["predicate"]["gates"]["passed"] = "yes"
    forged = base64.b64encode(json.dumps(payload).encode()).decode()
    assert "none of the keys" in refusal({**body, "payload": forged}, folder, keys)
    assert "none of the keys" in refusal({**body, "payloadType": "text"}, folder, keys)
    assert "none of the keys" in refusal({**body, "signatures": []}, folder, keys)
    assert "no DSSE envelope" in refusal({"payload": "?"}, folder, keys)
    other = write_bundle(tmp_path / "other", content=b"two")
    assert "another bundle" in refusal(body, other, keys)


def test_no_bit_of_payload_or_signature_can_be_flipped(folder, keys):
    body, digest = envelope(folder, keys), read_manifest(folder).digest
    payload, signature = (
        base64.b64decode(text) for text in (body["payload"], body["signatures"][0]["sig"])
    )
    for place in range(0, len(payload), 7):
        flipped = payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]
        altered = {**body, "payload": base64.b64encode(flipped).decode()}
        with pytest.raises(Untrusted):
            open_passport(altered, digest, [keys / "ada.pub"], now=T0)
    for place in range(len(signature)):
        flipped = signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :]
        altered = {**body, "signatures": [{"sig": base64.b64encode(flipped).decode()}]}
        with pytest.raises(Untrusted):
            open_passport(altered, digest, [keys / "ada.pub"], now=T0)


def test_a_passport_holds_until_it_expires_and_not_before_it_is_issued(folder, keys):
    body = envelope(folder, keys, expires_at=T0 + DAY)
    digest = read_manifest(folder).digest
    assert open_passport(body, digest, [keys / "ada.pub"], now=T0 + DAY - timedelta(seconds=1))
    assert "expired" in refusal(body, folder, keys, now=T0 + DAY)
    assert open_passport(body, digest, [keys / "ada.pub"], now=T0 - timedelta(minutes=5))
    assert "future" in refusal(body, folder, keys, now=T0 - timedelta(minutes=6))


def test_a_later_failure_counts_and_a_later_silence_does_not(folder, keys):
    def check(*passports):
        check_claims(
            [stated("passport", body) for body in passports], read_manifest(folder).digest,
            [keys / "ada.pub"], ["gates"], about="late/1", now=T0,
        )  # fmt: skip

    older = envelope(folder, keys, now=T0 - DAY)
    check(envelope(folder, keys, gates={}), older)
    with pytest.raises(Untrusted, match="says the contrary"):
        check(envelope(folder, keys, gates={"passed": False}), older)


def test_a_key_that_cannot_sign_is_refused(folder, keys):
    with pytest.raises(Invalid, match="on no elliptic curve"):
        envelope(folder, keys, "ed")


def strict(registry, keys, *claims, now=T0):
    return Registry(
        registry._records, registry._objects, required_keys=[keys / "ada.pub"],
        required_claims=claims, clock=lambda: now,
    )  # fmt: skip


def test_no_alias_and_no_load_without_the_claims_and_both_with_them(home, folder, keys):
    sign_bundle(folder, keys / "ada.pem", now=T0, by="ada")
    registry = open_registry(home)
    version = registry.push(folder, by="ada")
    needing = strict(registry, keys, "gates", "roc_auc >= 0.9")
    for refused in (
        lambda: needing.set_alias("late", "champion", 1, by="ada"),
        lambda: needing.path(version),
        lambda: needing.check_may_serve(version, "late", is_return=True),
    ):
        with pytest.raises(Untrusted, match=r"late/1 may not be used: 'gates' is required") as told:
            refused()
        assert "bascule passport write late/1" in told.value.hint
    registry.add_statement(version, "gates", GATES.body, at=T0, by="ci")
    said = claims_of(read_manifest(folder), registry.statements(version))
    body = envelope(folder, keys, expires_at=T0 + DAY, **said)
    registry.add_statement(version, "passport", body, at=T0, by="ada")
    assert needing.set_alias("late", "champion", 1, by="ada").to_number == 1
    assert needing.path(version)
    with pytest.raises(Untrusted, match="expired"):  # at each use, though it was good before
        strict(registry, keys, "gates", now=T0 + DAY).path(version)


def test_a_passport_goes_with_its_bundle_into_another_registry(home, folder, keys, tmp_path):
    sign_bundle(folder, keys / "ada.pem", now=T0, by="ada")
    written(folder, keys, parity={"passed": True})
    first = open_registry(home)
    first.export(first.push(folder, by="ada"), tmp_path / "late.tar")
    second = open_registry(tmp_path / "second")
    version = second.import_archive(tmp_path / "late.tar", by="ada")
    assert strict(second, keys, "parity").path(version)


def test_a_served_folder_needs_its_passport_beside_it(folder, keys, tmp_path):
    claimed = f'required_keys = ["{keys}/ada.pub"]\nrequired_claims = ["parity"]'
    (tmp_path / "bascule.toml").write_text(f"[security]\n{claimed}\n")
    settings = load_settings(tmp_path, environ={})
    sign_bundle(folder, keys / "ada.pem", now=T0, by="ada")
    with pytest.raises(Untrusted, match="'parity' is required"):
        check_signature(settings, folder)
    written(folder, keys, "eve", parity={"passed": True})
    with pytest.raises(Untrusted, match=r"none of the keys \(ada\.pub\) signed it"):
        check_signature(settings, folder)
    written(folder, keys, parity={"passed": True})
    check_signature(settings, folder)


def test_later_moves_and_verdicts_are_in_the_next_passport(home, folder):
    registry = open_registry(home)
    version = registry.push(folder, by="ada")
    registry.set_alias("late", "champion", 1, by="bo", reason="reviewed")
    ended = SimpleNamespace(
        ended_at=T0, state="promoted", latest=None,
        rollout=SimpleNamespace(id="r1", endpoint="late", candidate="late/1"),
    )  # fmt: skip
    other = replace(version, number=2)
    history = registry.history("late")
    evidence = {"events": history, "rollouts": [ended]}
    claims = claims_of(read_manifest(folder), (), version, **evidence)
    moved = [(act["act"], act["by"]) for act in claims["approvals"]]
    assert moved == [("alias_moved champion", "bo")]
    assert claims["rollouts"][0]["passed"]
    of_other = claims_of(read_manifest(folder), (), other, **evidence)
    assert of_other.keys().isdisjoint(("approvals", "rollouts"))


@pytest.mark.parametrize(
    ("thing", "content", "is_about"),
    [
        ("alias:late@production", '{"number":1}', True),
        ("alias:late@production", '{"number":2}', False),
        ("alias:later@production", '{"number":1}', False),
        ("alias:late@production", "", False),  # the alias was dropped
        ("deploy:late", '{"version":"late/1"}', True),
        ("deploy:late", '{"version":"late/11"}', False),
    ],
)
def test_acts_on_a_version_that_a_second_person_approved_are_in_its_passport(
    home, folder, thing, content, is_about
):
    version = open_registry(home).push(folder, by="ada")
    done = Approval(
        "a1", "done", thing, "PUT /api/v1/...", content, "ada", T0, T0 + DAY, "bob", {}
    )  # fmt: skip
    declined = replace(done, state="declined")

    approvals = map(asdict, (done, declined))
    acts = claims_of(read_manifest(folder), (), version, approvals=approvals).get("approvals", [])

    assert [(act["by"], act["approved_by"]) for act in acts] == [("ada", "bob")] * is_about


@pytest.mark.parametrize(
    ("security", "problem"),
    [
        ('required_claims = ["parity"]', "no key is required"),
        ('required_keys = ["k.pub"]\nrequired_claims = ["no claim"]', "required_claims"),
    ],
)
def test_settings_that_could_never_be_met_are_refused(tmp_path, security, problem):
    (tmp_path / "bascule.toml").write_text(f"[security]\n{security}\n")
    with pytest.raises(Invalid, match=problem):
        load_settings(tmp_path, environ={})
