"""What somebody may do to a bundle between packing and loading."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.tree import DecisionTreeClassifier

import bascule
from bascule.bundle.disk.folder import read_manifest
from bascule.bundle.opening import open_program
from bascule.core.digests import canonical_json, sha256_bytes
from bascule.core.errors import Untrusted


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    X, y = load_iris(return_X_y=True)
    model = DecisionTreeClassifier(max_depth=2).fit(X, y)
    folder = tmp_path_factory.mktemp("packed") / "iris"
    bascule.pack(model, name="iris", train=X, test=(X, y), to=folder, measure=False)
    return folder


@pytest.fixture
def bundle(packed, tmp_path):
    """A copy to do harm to."""
    return shutil.copytree(packed, tmp_path / "iris")


def rewrite(bundle, change):
    """Edit the manifest as an attacker would: well-formed, with digests that fit."""
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    change(manifest)
    (bundle / "bundle.json").write_bytes(canonical_json(manifest))


def reseal(bundle, name):
    """Make the manifest agree with a file that was altered."""
    data = (bundle / name).read_bytes()

    def change(manifest):
        manifest["files"][name] = {"sha256": sha256_bytes(data), "bytes": len(data)}

    rewrite(bundle, change)


@pytest.mark.parametrize("name", ["programs/onnx.onnx", "environment.txt"])
def test_one_flipped_bit_is_seen_and_the_file_is_named(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(Untrusted, match=f"{name} of bundle .* is not the file that was sealed"):
        bascule.load(bundle)


def test_a_file_cut_short_is_seen_even_without_digests(bundle):
    name = "programs/onnx.onnx"
    (bundle / name).write_bytes((bundle / name).read_bytes()[:-1])
    with pytest.raises(Untrusted, match=r"bytes, and .* when it was sealed"):
        read_manifest(bundle, verify=False)


def test_a_program_that_is_swapped_after_loading_is_not_run(bundle):
    """What is run is compared at that moment, not earlier."""
    manifest = read_manifest(bundle)
    name = "programs/onnx.onnx"
    data = bytearray((bundle / name).read_bytes())
    data[-3] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(Untrusted, match=name):
        open_program(bundle, manifest, name="onnx")


@pytest.mark.parametrize("name", ["extra.py", "programs/extra.onnx", "original/__init__.py"])
def test_a_file_that_the_manifest_does_not_know_is_refused(bundle, name):
    (bundle / name).write_text("import os")
    with pytest.raises(Untrusted, match=f"holds {name}, which is not in its manifest"):
        bascule.load(bundle)


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/hostname",
        "programs/../../outside",
        "programs//onnx.onnx",
        "./environment.txt",
        "programs\\onnx.onnx",
        "",
        "bundle.json",
        "card.md",
        "statements/x.json",
        "nul\0",
    ],
)
def test_a_manifest_cannot_point_outside_of_its_folder(bundle, name):
    (bundle.parent / "outside").write_bytes(b"secret")
    rewrite(
        bundle,
        lambda manifest: manifest["files"].update(
            {name: {"sha256": sha256_bytes(b"secret"), "bytes": 6}}
        ),
    )
    with pytest.raises(Untrusted, match="which cannot be a file of it"):
        bascule.load(bundle)


@pytest.mark.parametrize(
    "name", ["environment.txt", "programs", "statements", "bundle.json", "card.md"]
)
def test_a_symbolic_link_is_refused(bundle, name):
    elsewhere = bundle.parent / "elsewhere"
    (bundle / name).rename(elsewhere)
    (bundle / name).symlink_to(elsewhere)
    with pytest.raises(Untrusted, match="link"):
        bascule.load(bundle)


def test_a_newer_schema_is_refused_with_both_versions(bundle):
    rewrite(bundle, lambda manifest: manifest.update(schema_version=2))
    with pytest.raises(Untrusted, match="schema version 2, and this bascule reads up to 1"):
        bascule.load(bundle)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b'"text"', b"null", b"[" * 100_000, b'{"schema_version":1}', b"\xff",
        b'{"schema_version":NaN}', b'{"a":"\\ud800","schema_version":1}',
        b'{"schema_version":1e999}',
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(bundle, data):
    (bundle / "bundle.json").write_bytes(data)
    with pytest.raises(Untrusted, match=r"bundle\.json of bundle"):
        bascule.load(bundle)


def test_a_manifest_with_a_second_spelling_is_refused(bundle):
    """Else two manifests that say the same would have two digests."""
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    (bundle / "bundle.json").write_text(json.dumps(manifest, indent=2))
    with pytest.raises(Untrusted, match="not in canonical form"):
        bascule.load(bundle)


def test_a_manifest_that_serves_what_it_has_not_is_refused(bundle):
    rewrite(bundle, lambda manifest: manifest.update(serves="other"))
    with pytest.raises(Untrusted, match="serves 'other', which is none of its programs"):
        bascule.load(bundle)


def test_a_program_that_is_no_graph_is_refused_with_its_name(bundle):
    name = "programs/onnx.onnx"
    (bundle / name).write_bytes(b"\0" * 100)
    reseal(bundle, name)
    with pytest.raises(Untrusted, match=f"{name} cannot be loaded by ONNX Runtime"):
        bascule.load(bundle).predict(np.zeros((1, 4)))


def test_a_program_with_other_inputs_than_declared_is_refused(bundle):
    def change(manifest):
        manifest["programs"][0]["inputs"][0]["dtype"] = "FP64"

    rewrite(bundle, change)
    with pytest.raises(Untrusted, match=r"input is declared as an input of programs/onnx\.onnx"):
        bascule.load(bundle).predict(np.zeros((1, 4)))


def test_an_original_of_another_scikit_learn_is_named_with_both_versions(bundle):
    rewrite(
        bundle, lambda manifest: manifest["original"]["requires"].update({"scikit-learn": "1.4.0"})
    )
    loaded = bascule.load(bundle)
    assert loaded.predict(np.zeros((1, 4)))["label"].shape == (1,)
    with pytest.raises(Untrusted, match=r"saved with scikit-learn 1\.4\.0, and .* is installed"):
        loaded.original()


def test_statements_of_another_bundle_are_not_believed(bundle):
    loaded = bascule.load(bundle)
    (file, *others) = (bundle / "statements").glob("parity-*.json")
    for other in others:
        other.unlink()
    said = json.loads(file.read_bytes())
    said["subject"] = "sha256:" + "0" * 64
    file.write_bytes(canonical_json(said))
    assert loaded.statements("parity") == []
    assert loaded.parity is None


def test_the_card_and_new_statements_do_not_change_the_digest(bundle):
    before = bascule.load(bundle)
    (bundle / "card.md").write_text("other words")
    before.add_statement("gates", {"passed": True}, by="ada")
    after = bascule.load(bundle)
    assert after.digest == before.digest
    assert after.statements("gates")[0].body == {"passed": True}


@pytest.mark.parametrize("change", ["value", "kind", "name"])
def test_a_statement_that_was_altered_does_not_count_and_is_warned_of(bundle, caplog, change):
    loaded = bascule.load(bundle)
    loaded.add_statement("gates", {"passed": False}, by="ci")
    (file,) = (bundle / "statements").glob("gates-*.json")
    content = file.read_bytes()
    if change == "value":
        file.write_bytes(content.replace(b"false", b"true"))
    elif change == "kind":
        file.write_bytes(content.replace(b'"gates"', b'"other"'))
    else:
        file.rename(file.with_name(f"gates-{'0' * 12}.json"))
    assert loaded.statements("gates") == loaded.statements("other") == []
    assert "is passed over" in caplog.text
    assert "gates-" in caplog.text


def test_a_statement_that_is_only_written_anew_counts(bundle):
    loaded = bascule.load(bundle)
    loaded.add_statement("gates", {"passed": False}, by="ci")
    (file,) = (bundle / "statements").glob("gates-*.json")
    file.write_text(json.dumps(json.loads(file.read_bytes()), indent=4))
    assert len(loaded.statements("gates")) == 1
