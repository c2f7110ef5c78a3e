"""Names that no file can have, at every door: one sentence, and no traceback."""

from __future__ import annotations

import json

import pytest
from tests.tiers import first_of

import bascule
from bascule.core.digests import canonical_json, sha256_bytes
from bascule.core.errors import BasculeError, Invalid, NotFound, Untrusted
from bascule.core.names import is_file_name
from bascule.packing.flavors.python import _packed
from bascule.registry.stores.files import checked_name
from bascule.remotes.objects import Remote, choose
from bascule.serving.workers import bind

LONG = "n" * 300
ACCENTS = "é" * 128  # 256 bytes


@pytest.mark.parametrize(
    ("name", "fits"),
    [("n" * 255, True), ("n" * 256, False), ("é" * 127, True), (ACCENTS, False),
     ("a/" + "n" * 255, True), ("a/" + LONG, False), (LONG + "/a", False), ("a\0", False)],
)  # fmt: skip
def test_what_fits_into_a_folder(name, fits):
    assert is_file_name(name) is fits


@pytest.mark.parametrize("name", first_of([LONG, ACCENTS]))
@pytest.mark.parametrize(
    "words",
    [
        ("show", "{}"), ("show", "m@{}"), ("show", "./{}"), ("serve", "{}"), ("serve", "/tmp/{}"),
        ("predict", "{}", "x.csv"), ("predict", "gb", "{}"), ("pack", "{}", "--name", "m"),
        ("pack", "{}:Model", "--name", "m"), ("card", "{}"), ("check", "{}"), ("push", "{}"),
        ("import", "{}"), ("verify", "{}", "--key", "k"), ("diff", "{}", "{}"), ("snippet", "{}"),
        ("rebuild", "{}"), ("sign", "{}", "--key", "{}"), ("alias", "m/1", "{}"),
        ("keys", "create", "{}", "--allow", "metrics"),
    ],
)  # fmt: skip
def test_no_command_fails_on_a_name_with_more_than_a_sentence(
    command, tmp_path, monkeypatch, name, words
):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*(word.format(name) for word in words))
    assert 2 <= code <= 6
    assert err.startswith("error: ")
    assert "Traceback" not in out + err


@pytest.mark.parametrize("variable", ["BASCULE_HOME", "BASCULE_REGISTRY__OBJECTS"])
def test_no_command_fails_on_the_name_of_a_home_with_more_than_a_sentence(
    command, tmp_path, monkeypatch, cancer_bundle, variable
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, f"/tmp/{LONG}" if "HOME" in variable else f"files:///tmp/{LONG}")
    for words in (("push", cancer_bundle), ("models",), ("doctor",)):
        code, out, err = command(*words)
        assert code in (0, 1, 2, 3, 6)
        assert "Traceback" not in out + err


@pytest.mark.parametrize("name", [LONG, ACCENTS, "a\0b"])
def test_no_bundle_is_at_a_name_that_no_file_can_have(name):
    with pytest.raises(NotFound, match="there is no bundle at"):
        bascule.load(name)


def test_a_manifest_may_not_name_what_no_file_can_be(tmp_path, cancer_bundle):
    import shutil

    place = shutil.copytree(cancer_bundle, tmp_path / "m")
    manifest = json.loads((place / "bundle.json").read_bytes())
    manifest["files"][f"data/{LONG}"] = {"bytes": 0, "sha256": sha256_bytes(b"")}
    (place / "bundle.json").write_bytes(canonical_json(manifest))
    with pytest.raises(Untrusted, match="which cannot be a file of it"):
        bascule.load(place)


def test_other_places_of_files_refuse_it_too():
    with pytest.raises(Untrusted, match="cannot be a file of a bundle"):
        choose([Remote(f"data/{ACCENTS}", 1, "")], "s3://b/x")
    with pytest.raises(Untrusted):
        checked_name(f"data/{ACCENTS}")


def test_a_class_of_ones_own_has_no_file_of_such_a_name(tmp_path):
    code = tmp_path / "m.py"
    code.write_text("class M: pass")
    with pytest.raises(Invalid, match="is not a name inside a folder"):
        _packed(bascule.PythonModel("m:M", code=code, files={LONG: code}), "")
    with pytest.raises(Invalid, match="is not there"):
        _packed(bascule.PythonModel("m:M", code=LONG), "")


@pytest.mark.parametrize("host", [LONG, f"{'a' * 64}.b", "a..b"])
def test_the_name_of_a_host_is_refused_in_words(host):
    with pytest.raises(Invalid, match="cannot be resolved"):
        bind(host, 0, 1)
    with pytest.raises(BasculeError):
        bascule.Client(f"http://{host}:1").ready()
