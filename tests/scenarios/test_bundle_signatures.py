"""Who vouches for a bundle: with the real command of the specification on either side."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import bascule
from bascule.app import open_registry as open_configured
from bascule.bundle.disk.signatures import FILE, sign_bundle, verify_bundle
from bascule.core.digests import canonical_json, sha256_bytes
from bascule.core.errors import Invalid, NotFound, Untrusted
from bascule.registry import open_registry
from bascule.security.signing import fingerprint
from bascule.settings import load_settings

COMMAND = Path(sys.executable).with_name("model_signing")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PEM = serialization.Encoding.PEM
PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo


def write_key(folder, name, private, password=None):
    lock = serialization.NoEncryption()
    if password:
        lock = serialization.BestAvailableEncryption(password.encode())
    (folder / f"{name}.pem").write_bytes(
        private.private_bytes(PEM, serialization.PrivateFormat.PKCS8, lock)
    )
    (folder / f"{name}.pub").write_bytes(private.public_key().public_bytes(PEM, PUBLIC))


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ada", "eve"):
        write_key(folder, name, ec.generate_private_key(ec.SECP256R1()))
    return folder


@pytest.fixture
def bundle(regressor_bundle, tmp_path):
    return shutil.copytree(regressor_bundle, tmp_path / "ridge")


@pytest.fixture
def signed(bundle, keys):
    sign_bundle(bundle, keys / "ada.pem", now=NOW, by="ada")
    return bundle


def real(*words):
    done = subprocess.run(
        [COMMAND, *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def real_verify(bundle, key, *more):
    return real("verify", "key", bundle, "--signature", bundle / FILE, "--public_key", key, *more)


def reseal(bundle, name, data):
    """As somebody would who can write the folder and has no key."""
    (bundle / name).write_bytes(data)
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    manifest["files"][name] = {"sha256": sha256_bytes(data), "bytes": len(data)}
    (bundle / "bundle.json").write_bytes(canonical_json(manifest))


def test_a_signed_bundle_is_the_same_bundle_and_verifies(signed, keys):
    found = verify_bundle(signed, [keys / "ada.pub"])

    assert found.manifest.digest == bascule.load(signed).digest
    assert found.key == fingerprint(keys / "ada.pub")
    assert found.statements == ()


def test_the_real_command_verifies_it_after_more_was_said(signed, keys):
    bascule.load(signed).add_statement("gates", {"passed": True}, by="ada")
    assert real_verify(signed, keys / "ada.pub")[0] == 0


def test_we_verify_what_the_real_command_signed(bundle, keys, tmp_path):
    signature = tmp_path / "model.sig"
    code, said = real(
        "sign", "key", bundle, "--signature", signature, "--private_key", keys / "ada.pem"
    )
    assert code == 0, said
    shutil.copy(signature, bundle / FILE)

    assert verify_bundle(bundle, [keys / "ada.pub"]).statements

    (bundle / "bundle.json").write_bytes((bundle / "bundle.json").read_bytes())
    reseal(bundle, "environment.txt", b"numpy==0\n")
    with pytest.raises(Untrusted):
        verify_bundle(bundle, [keys / "ada.pub"])


def test_a_byte_altered_after_signing_is_refused_by_both(signed, keys):
    name = "programs/onnx.onnx"
    data = bytearray((signed / name).read_bytes())
    data[-3] ^= 1
    (signed / name).write_bytes(data)

    with pytest.raises(Untrusted, match=r"programs/onnx\.onnx of bundle"):
        verify_bundle(signed, [keys / "ada.pub"])
    assert real_verify(signed, keys / "ada.pub")[0] != 0


def test_a_bundle_sealed_anew_without_the_key_is_refused_by_both(signed, keys):
    reseal(signed, "environment.txt", b"numpy==0\n")
    assert bascule.load(signed)

    with pytest.raises(Untrusted, match=r"is not what the key|is not signed"):
        verify_bundle(signed, [keys / "ada.pub"])
    assert real_verify(signed, keys / "ada.pub")[0] != 0


def test_another_persons_signature_does_not_count(signed, keys):
    with pytest.raises(Untrusted, match="is not what the key"):
        verify_bundle(signed, [keys / "eve.pub"])
    assert verify_bundle(signed, [keys / "eve.pub", keys / "ada.pub"]).key


def test_a_bundle_that_nobody_signed_is_refused(bundle, keys):
    with pytest.raises(Untrusted, match="is not signed"):
        verify_bundle(bundle, [keys / "ada.pub"])


def test_a_signature_of_another_bundle_does_not_count(signed, cancer_bundle, keys, tmp_path):
    other = shutil.copytree(cancer_bundle, tmp_path / "other")
    shutil.copy(signed / FILE, other / FILE)
    with pytest.raises(Untrusted, match="is not what the key"):
        verify_bundle(other, [keys / "ada.pub"])


def test_a_signature_that_leaves_the_manifest_out_does_not_count(bundle, keys):
    """It holds, and says nothing of what the model is."""
    (bundle / "statements").mkdir(exist_ok=True)
    code, said = real(
        "sign", "key", bundle, "--signature", bundle / FILE, "--private_key", keys / "ada.pem",
        "--ignore-paths", bundle / "bundle.json", "--ignore-paths", bundle / "statements",
    )  # fmt: skip
    assert code == 0, said
    with pytest.raises(Untrusted, match=r"signed other files of .* than its bundle\.json"):
        verify_bundle(bundle, [keys / "ada.pub"])


@pytest.mark.parametrize("junk", [b"", b"{}", b"[" * 50_000, b"\xff", b'{"dsseEnvelope":{}}'])
def test_a_signature_that_is_none_is_refused(bundle, keys, junk):
    (bundle / FILE).write_bytes(junk)
    with pytest.raises(Untrusted, match="is not what the key"):
        verify_bundle(bundle, [keys / "ada.pub"])


def test_statements_can_be_signed_too_and_then_not_altered(bundle, keys):
    loaded = bascule.load(bundle)
    loaded.add_statement("gates", {"passed": True}, by="ada")
    sign_bundle(bundle, keys / "ada.pem", statements=True, now=NOW, by="ada")
    (gates,) = (bundle / "statements").glob("gates-*.json")

    assert f"statements/{gates.name}" in verify_bundle(bundle, [keys / "ada.pub"]).statements
    loaded.add_statement("gates", {"passed": False}, by="eve")
    assert verify_bundle(bundle, [keys / "ada.pub"])
    assert real_verify(bundle, keys / "ada.pub", "--ignore_unsigned_files")[0] == 0

    gates.write_bytes(gates.read_bytes().replace(b"true", b"false"))
    with pytest.raises(Untrusted, match="is not what the key"):
        verify_bundle(bundle, [keys / "ada.pub"])


def test_an_altered_bundle_is_not_signed(bundle, keys):
    (bundle / "environment.txt").write_text("numpy==0\n")
    with pytest.raises(Untrusted, match=r"environment\.txt"):
        sign_bundle(bundle, keys / "ada.pem", now=NOW, by="ada")
    assert not (bundle / FILE).exists()


def test_a_key_with_a_password_needs_it(bundle, keys):
    write_key(keys, "locked", ec.generate_private_key(ec.SECP384R1()), password="sesame")
    with pytest.raises(Invalid, match=r"locked\.pem is no private key that can be used"):
        sign_bundle(bundle, keys / "locked.pem", now=NOW, by="ada")
    sign_bundle(bundle, keys / "locked.pem", password="sesame", now=NOW, by="ada")
    assert verify_bundle(bundle, [keys / "locked.pub"])


@pytest.mark.parametrize("what", ["absent", "junk", "rsa", "public"])
def test_a_file_that_is_no_key_is_named_with_the_way_to_make_one(bundle, keys, what):
    if what == "junk":
        (keys / "junk.pem").write_text("junk")
    if what == "rsa":
        write_key(keys, "rsa", rsa.generate_private_key(65537, 2048))
    file = keys / ("ada.pub" if what == "public" else f"{what}.pem")
    with pytest.raises(Invalid, match="is no private key that can be used") as caught:
        sign_bundle(bundle, file, now=NOW, by="ada")
    assert "openssl" in caught.value.hint


def test_the_signature_goes_with_the_bundle_into_the_registry(signed, keys, tmp_path):
    registry = open_registry(tmp_path / "home")
    path = registry.path(registry.push(signed, by="ada"))
    assert verify_bundle(path, [keys / "ada.pub"]).key


# -- what the registry requires, whoever calls it --


@pytest.fixture
def strict(tmp_path, keys):
    """`strict()`: the registry as settings with a required key open it."""
    (tmp_path / "bascule.toml").write_text(f'[security]\nrequired_keys = ["{keys}/ada.pub"]\n')
    return lambda: open_configured(load_settings(tmp_path, {}))


@pytest.fixture
def lenient(tmp_path):
    """The same registry, opened by somebody who requires nothing."""
    return open_registry(tmp_path / ".bascule")


def test_push_takes_in_nothing_that_no_required_key_signed(strict, bundle, keys):
    with pytest.raises(Untrusted, match="is not signed"):
        strict().push(bundle, by="ada")
    sign_bundle(bundle, keys / "eve.pem", now=NOW, by="eve")
    with pytest.raises(Untrusted):
        strict().push(bundle, by="eve")
    with pytest.raises(NotFound):
        strict().models()

    sign_bundle(bundle, keys / "ada.pem", now=NOW, by="ada")
    version = strict().push(bundle, by="ada")
    assert strict().set_alias("ridge", "champion", version.number, by="ada").to_number == 1
    assert strict().path("ridge@champion").is_dir()


def test_a_file_that_was_exported_is_no_way_around_the_keys(strict, bundle, keys, tmp_path):
    elsewhere = open_registry(tmp_path / "elsewhere")
    elsewhere.export(elsewhere.push(bundle, by="eve"), tmp_path / "unsigned.tar")
    with pytest.raises(Untrusted, match="is not signed"):
        strict().import_archive(tmp_path / "unsigned.tar", by="eve")

    sign_bundle(bundle, keys / "ada.pem", now=NOW, by="ada")
    elsewhere.export(elsewhere.push(bundle, by="ada"), tmp_path / "signed.tar")
    assert strict().import_archive(tmp_path / "signed.tar", by="ada").number == 1


def test_no_alias_may_point_to_what_came_in_before_keys_were_required(strict, lenient, bundle):
    lenient.push(bundle, by="ada")
    with pytest.raises(Untrusted, match=r"ridge/1 may not be used: .*is not signed") as caught:
        strict().set_alias("ridge", "champion", 1, by="ada")
    assert "push it again" in caught.value.hint
    assert strict().aliases("ridge") == {}


def test_what_an_alias_pointed_to_before_is_shown_and_not_handed_out(strict, lenient, bundle, keys):
    lenient.set_alias("ridge", "champion", lenient.push(bundle, by="ada").number, by="ada")
    with pytest.raises(Untrusted, match="may not be used"):
        strict().path("ridge@champion")
    assert strict().path_to_look_at("ridge@champion").is_dir()

    sign_bundle(bundle, keys / "ada.pem", now=NOW, by="ada")
    assert strict().push(bundle, by="ada").number == 1, "the same bundle, now with its signature"
    assert strict().path("ridge@champion").is_dir()


def test_a_bundle_that_is_swapped_while_it_is_verified_does_not_come_in(
    strict, signed, table_bundle, tmp_path, monkeypatch
):
    place = shutil.copytree(table_bundle, tmp_path / "place")
    registry = strict()
    verify = registry._vouched

    def swap_then_verify(path):
        shutil.rmtree(place)
        shutil.copytree(signed, place)
        return verify(path)

    monkeypatch.setattr(registry, "_vouched", swap_then_verify)
    with pytest.raises(Untrusted, match="was changed while it was verified"):
        registry.push(place, by="eve")
    with pytest.raises(NotFound):
        registry.models()


# -- the commands, and what the settings require --


@pytest.fixture
def command(command, monkeypatch, tmp_path):
    """`command("push", path)`: the exit code, and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))

    def ended(*words):
        code, out, errors = command(*words)
        return code, out + errors

    return ended


def test_the_commands_sign_and_verify(command, bundle, keys):
    assert command("sign", bundle, "--key", keys / "ada.pem")[0] == 0
    code, said = command("verify", bundle, "--key", keys / "ada.pub", "--json")
    assert code == 0
    assert json.loads(said)["key"] == fingerprint(keys / "ada.pub")
    code, said = command("verify", bundle, "--key", keys / "eve.pub")
    assert code == 5
    assert "is not what the key" in said.replace("\n", " ")
    code, said = command("verify", bundle)
    assert code == 2
    assert "no key to verify with" in said


def test_where_keys_are_required_nothing_else_is_pushed_or_served(command, bundle, keys, tmp_path):
    (tmp_path / "bascule.toml").write_text(f'[security]\nrequired_keys = ["{keys}/ada.pub"]\n')

    code, said = command("push", bundle)
    assert code == 5
    assert "is not signed" in said
    code, said = command("serve", bundle, "--port=0", "--control-port=0")
    assert code == 5
    assert "is not signed" in said

    assert command("sign", bundle, "--key", keys / "ada.pem")[0] == 0
    assert command("push", bundle)[0] == 0


def test_a_registered_version_that_nobody_vouches_for_is_shown_and_not_served(
    command, bundle, keys, tmp_path
):
    assert command("push", bundle)[0] == 0
    (tmp_path / "bascule.toml").write_text(f'[security]\nrequired_keys = ["{keys}/ada.pub"]\n')
    for words in (("serve", "ridge/1", "--port=0", "--control-port=0"), ("check", "ridge/1")):
        code, said = command(*words)
        assert code == 5, words
        assert "may not be used" in said
    assert command("show", "ridge/1")[0] == 0


def test_a_key_in_the_settings_is_meant_from_their_folder(tmp_path):
    (tmp_path / "bascule.toml").write_text('[security]\nrequired_keys = ["key.pub", "/k/b.pub"]\n')
    found = load_settings(tmp_path, {}).security.required_keys
    assert found == (tmp_path / "key.pub", Path("/k/b.pub"))
    environ = {"BASCULE_SECURITY__REQUIRED_KEYS": '["c.pub"]'}
    assert load_settings(tmp_path, environ).security.required_keys == (tmp_path / "c.pub",)
