"""Who says that a version passed, and what of it counts: both sides of each attack on the gates."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.registry.conftest import write_bundle

from bascule.app import open_registry
from bascule.bundle.disk.folder import digest_of, write_statement
from bascule.bundle.disk.signatures import sign_bundle
from bascule.core.digests import canonical_json
from bascule.core.errors import Refused, Untrusted
from bascule.settings import load_settings

NOW = datetime.now(UTC)
FULL = ("roc_auc >= 0.8", "latency_p50 <= 5 ms")
TRIVIAL = ("size <= 1000 MB",)


def verdict(*criteria, passed=True):
    results = [{"criterion": one, "passed": passed, "reason": "r"} for one in criteria]
    return {"passed": passed, "results": results}


def forge(bundle, at, *, by="risk-committee", name="gates-0.json"):
    """As somebody writes a file who has never checked anything."""
    said = {
        "schema_version": 1,
        "kind": "gates",
        "subject": digest_of(bundle),
        "at": at.isoformat(),
        "by": by,
        "body": verdict(*FULL),
    }
    (bundle / "statements").mkdir(exist_ok=True)
    (bundle / "statements" / name).write_bytes(canonical_json(said))


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "late.bundle")


@pytest.fixture
def strict(tmp_path):
    """`strict(keys=..., criteria=...)`: the registry as settings open it that require gates."""

    def opened(*, keys=(), criteria=()):
        (tmp_path / "bascule.toml").write_text(
            "registry.require_gates = true\n"
            f"gates.criteria = {json.dumps(list(criteria))}\n"
            f"security.required_keys = {json.dumps([str(key) for key in keys])}\n"
        )
        return open_registry(load_settings(tmp_path, {}))

    return opened


@pytest.fixture
def key(tmp_path):
    private = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (tmp_path / "k.pem").write_bytes(
        private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public = private.public_key()
    (tmp_path / "k.pub").write_bytes(
        public.public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return tmp_path / "k.pem"


def may_be_aliased(registry):
    return registry.set_alias("late", "champion", 1, by="ada").to_number == 1


# -- time --


def test_a_verdict_from_the_future_is_refused_at_push_and_names_its_file(strict, bundle):
    forge(bundle, NOW.replace(year=2999), name="gates-of-eve.json")
    registry = strict()

    with pytest.raises(
        Untrusted, match=r"gates-of-eve\.json by risk-committee is dated 2999"
    ) as no:
        registry.push(bundle, by="eve")
    assert "remove that file" in no.value.hint
    (bundle / "statements" / "gates-of-eve.json").unlink()
    assert registry.push(bundle, by="eve").gates == "unchecked"


def test_a_check_from_the_future_is_not_recorded(strict, bundle):
    registry = strict()
    version = registry.push(bundle, by="ada")

    with pytest.raises(Untrusted, match="cannot lie in the future"):
        registry.add_statement(
            version, "gates", verdict(*FULL), at=NOW + timedelta(hours=1), by="ci"
        )
    assert registry.statements(version, "gates") == []


def test_a_clock_that_is_a_little_ahead_does_no_harm_and_no_good(strict, bundle):
    registry = strict()
    forge(bundle, datetime.now(UTC) + timedelta(minutes=3))
    version = registry.push(bundle, by="ada")
    assert may_be_aliased(registry)

    registry.add_statement(
        version, "gates", verdict(*FULL, passed=False), at=datetime.now(UTC), by="ci"
    )
    with pytest.raises(Refused, match="failed its gates"):
        may_be_aliased(registry)


# -- who says so --


def test_a_forged_pass_does_not_undo_a_failed_check_whenever_it_is_dated(strict, bundle):
    registry = strict()
    version = registry.push(bundle, by="ada")
    registry.add_statement(version, "gates", verdict(*FULL, passed=False), at=NOW, by="ci")
    forge(bundle, datetime.now(UTC) + timedelta(minutes=2))

    assert registry.push(bundle, by="eve").gates == "failed"
    with pytest.raises(Refused, match="failed its gates"):
        may_be_aliased(registry)

    registry.add_statement(version, "gates", verdict(*FULL), at=NOW, by="ci")
    assert may_be_aliased(registry)


def test_a_failure_that_a_bundle_brings_counts_all_the_same(strict, bundle):
    registry = strict()
    version = registry.push(bundle, by="ada")
    registry.add_statement(version, "gates", verdict(*FULL), at=NOW, by="ci")
    write_statement(bundle, "gates", verdict(*FULL, passed=False), at=NOW, by="ada")
    registry.push(bundle, by="ada")

    with pytest.raises(Refused, match="failed its gates"):
        may_be_aliased(registry)


def test_history_names_who_brought_a_verdict_and_not_whom_it_names(strict, bundle):
    registry = strict()
    forge(bundle, NOW)
    version = registry.push(bundle, by="eve")
    registry.add_statement(version, "gates", verdict(*FULL), at=NOW, by="ci")

    brought, told = (e for e in registry.history("late") if e.kind == "gates_recorded")
    assert (brought.by, brought.reason) == (
        "eve",
        f"by risk-committee before the push: passed 2 of 2: {', '.join(FULL)}",
    )
    assert (told.by, told.reason) == ("ci", f"passed 2 of 2: {', '.join(FULL)}")


def test_where_keys_are_required_a_verdict_that_none_of_them_signed_lets_nothing_pass(
    strict, bundle, key
):
    sign_bundle(bundle, key, now=NOW, by="ada")
    forge(bundle, NOW)
    registry = strict(keys=[key.with_suffix(".pub")])
    version = registry.push(bundle, by="eve")

    with pytest.raises(
        Refused, match=r"by risk-committee came with the push by eve, and none of .*required_keys"
    ) as caught:
        may_be_aliased(registry)
    assert "check it again here: bascule check late/1" in caught.value.hint

    registry.add_statement(version, "gates", verdict(*FULL), at=NOW, by="ci")
    assert may_be_aliased(registry)


def test_where_keys_are_required_a_verdict_that_one_of_them_signed_counts(strict, bundle, key):
    write_statement(bundle, "gates", verdict(*FULL), at=NOW, by="ada")
    sign_bundle(bundle, key, statements=True, now=NOW, by="ada")
    registry = strict(keys=[key.with_suffix(".pub")])
    registry.push(bundle, by="eve")

    assert may_be_aliased(registry)


def test_a_verdict_that_came_before_keys_were_required_is_not_believed_either(strict, bundle, key):
    sign_bundle(bundle, key, now=NOW, by="ada")
    forge(bundle, NOW)
    strict().push(bundle, by="eve")

    with pytest.raises(Refused, match="came with the push by eve"):
        may_be_aliased(strict(keys=[key.with_suffix(".pub")]))


# -- what was judged --


def test_a_failed_check_is_not_cleared_by_checking_something_trivial(strict, bundle):
    registry = strict(criteria=FULL)
    version = registry.push(bundle, by="ada")
    registry.add_statement(version, "gates", verdict(*FULL, passed=False), at=NOW, by="ci")
    registry.add_statement(version, "gates", verdict(*TRIVIAL), at=NOW, by="eve")

    with pytest.raises(
        Refused, match=r"did not judge 'roc_auc >= 0\.8', 'latency_p50 <= 5 ms', and it failed"
    ):
        may_be_aliased(registry)

    registry.add_statement(version, "gates", verdict(*TRIVIAL, *FULL), at=NOW, by="ci")
    assert may_be_aliased(registry)
    registry.add_statement(version, "gates", verdict(*TRIVIAL), at=NOW, by="bob")
    assert registry.set_alias("late", "rival", 1, by="ada"), "what is checked besides does no harm"


def test_a_trivial_check_alone_is_no_check_where_criteria_are_configured(strict, bundle):
    registry = strict(criteria=["roc_auc >= 0.80", "size <= 1 GB"])
    version = registry.push(bundle, by="ada")
    registry.add_statement(version, "gates", verdict(*TRIVIAL), at=NOW, by="eve")

    with pytest.raises(Refused, match=r"did not judge 'roc_auc >= 0\.8'") as caught:
        may_be_aliased(registry)
    assert "bascule check late/1" in caught.value.hint
    assert may_be_aliased(strict()), "where none are configured, any check is one"
