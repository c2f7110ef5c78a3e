"""Rebuilding: the same rows give the same bundle; others are refused; what differs is explained."""

import json
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from tests.tiers import first_of

import bascule
from bascule.bundle.disk import ENVIRONMENT, EXAMPLE, folder as disk
from bascule.bundle.disk.diff import Facts, differences
from bascule.core.digests import canonical_json, sha256_bytes
from bascule.core.errors import Conflict, Invalid, Unconvertible


@pytest.fixture
def rows(cancer):
    X, y = cancer
    return X[:300], (X[300:450], y[300:450]), (X[450:], y[450:])


def test_with_its_training_rows_a_bundle_is_rebuilt_to_its_own_digest(pack, boosted, rows):
    train, test, _ = rows
    bundle = pack(boosted, train, test, outliers=True)

    rebuilt = bascule.rebuild(bundle.path, train=train)

    assert rebuilt.same
    assert rebuilt.rebuilt == bundle.digest
    assert rebuilt.differences == ()


def test_a_table_with_texts_categories_and_gaps_is_rebuilt_from_its_rows(pack, flights):
    table, late = flights
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["carrier", "airport", "plane"]),
            ("passthrough", ["hour", "rain"]),
        ),
        LogisticRegression(max_iter=1000),
    ).fit(table, late)
    bundle = pack(model, (table[:400], late[:400]), (table[400:], late[400:]))

    assert bascule.rebuild(bundle.path, train=(table[:400], late[:400])).same


def test_without_its_training_rows_a_bundle_cannot_be_rebuilt_and_says_which(pack, boosted, rows):
    bundle = pack(boosted, rows[0])
    recorded = bundle.statements("provenance")[0].body["train"]["sha256"]

    with pytest.raises(Invalid, match=f"300 rows, {recorded}") as refused:
        bascule.rebuild(bundle.path)
    assert "--train" in refused.value.hint


def test_one_value_that_is_another_is_other_rows(pack, boosted, rows):
    bundle = pack(boosted, rows[0])
    changed = rows[0].copy()
    changed[17, 3] = np.nextafter(changed[17, 3], np.inf)

    with pytest.raises(Invalid, match="the train rows are not those"):
        bascule.rebuild(bundle.path, train=changed)


def test_another_truth_is_other_rows(pack, boosted, rows):
    train, (X, y), _ = rows
    bundle = pack(boosted, train, (X, y), keep_test=False)
    changed = y.copy()
    changed[0] = 1 - changed[0]

    with pytest.raises(Invalid, match="the test rows are not those"):
        bascule.rebuild(bundle.path, train=train, test=(X, changed))


def test_held_out_rows_that_were_not_kept_are_asked_for_and_verified(pack, boosted, rows):
    train, test, _ = rows
    bundle = pack(boosted, train, test, keep_test=False)

    with pytest.raises(Invalid, match="the test rows are missing"):
        bascule.rebuild(bundle.path, train=train)
    assert bascule.rebuild(bundle.path, train=train, test=test).same


def test_rows_that_it_was_calibrated_on_are_asked_for_and_verified(pack, boosted, rows):
    train, test, calibration = rows
    bundle = pack(boosted, train, test, calibration=calibration)

    with pytest.raises(Invalid, match="the calibration rows are missing"):
        bascule.rebuild(bundle.path, train=train)
    with pytest.raises(Invalid, match="the calibration rows are not those"):
        bascule.rebuild(bundle.path, train=train, calibration=test)
    assert bascule.rebuild(bundle.path, train=train, calibration=calibration).same


def test_a_truth_that_a_file_holds_wider_is_the_same_truth(pack, boosted, rows):
    train, (X, y), _ = rows
    bundle = pack(boosted, train, (X, y.astype(np.int8)), keep_test=False)

    assert bascule.rebuild(bundle.path, train=train, test=(X, y.astype(np.int64))).same


def test_rows_that_come_without_their_truth_are_refused_with_the_next_step(pack, boosted, rows):
    train, (X, y), _ = rows
    bundle = pack(boosted, train, (X, y), keep_test=False)

    with pytest.raises(Invalid, match="come without it") as refused:
        bascule.rebuild(bundle.path, train=train, test=X)
    assert "--target" in refused.value.hint


def test_rows_that_it_was_packed_without_are_refused(pack, boosted, rows):
    train, test, _ = rows
    bundle = pack(boosted, train)

    with pytest.raises(Invalid, match="packed without such rows"):
        bascule.rebuild(bundle.path, train=train, test=test)


@pytest.mark.parametrize(
    "settings", first_of([{"tolerance": 1e-3}, {"baseline": False}, {"name": "other"}], 2)
)
def test_what_pack_was_asked_for_is_asked_for_again(pack, boosted, rows, settings):
    bundle = pack(boosted, rows[0], rows[1], **settings)
    assert bascule.rebuild(bundle.path, train=rows[0]).same


def test_what_was_rebuilt_can_be_kept_and_is_a_bundle(pack, boosted, rows, tmp_path):
    bundle = pack(boosted, rows[0], rows[1])
    place = tmp_path / "kept"

    bascule.rebuild(bundle.path, train=rows[0], to=place)

    kept = bascule.load(place)
    assert kept.digest == bundle.digest
    np.testing.assert_array_equal(
        kept.predict(rows[2][0])["label"], bundle.predict(rows[2][0])["label"]
    )
    with pytest.raises(Conflict):
        bascule.rebuild(bundle.path, train=rows[0], to=place)


def test_a_bundle_that_was_sealed_by_hand_is_not_what_its_record_makes(pack, boosted, rows):
    """Every digest in it is right, so it loads; only packing again shows the lie."""
    bundle = pack(boosted, rows[0], rows[1])
    _reseal(bundle, EXAMPLE, lambda text: text.replace(b"17.", b"71.", 1))
    forged = bascule.load(bundle.path)

    rebuilt = bascule.rebuild(bundle.path, train=rows[0])

    assert not rebuilt.same
    assert rebuilt.packed == forged.digest
    (difference,) = rebuilt.differences
    assert difference.what == EXAMPLE
    assert difference.why == "nothing that is recorded explains it"


def test_nothing_recorded_is_nothing_to_rebuild_from(pack, boosted, rows):
    bundle = pack(boosted, rows[0])
    for file in (bundle.path / disk.STATEMENTS).glob("provenance-*.json"):
        file.unlink()

    with pytest.raises(Invalid, match="nothing is recorded"):
        bascule.rebuild(bundle.path, train=rows[0])


def test_an_original_in_a_format_that_cannot_be_packed_again_is_named(
    pack, boosted, rows, monkeypatch
):
    from bascule.packing.flavors import table

    bundle = pack(boosted, rows[0])
    monkeypatch.delitem(table._REOPENERS, "skops")

    with pytest.raises(Unconvertible, match="'skops' cannot be packed again"):
        bascule.rebuild(bundle.path, train=rows[0])


# -- what differs, and why --


@pytest.fixture
def facts(pack, boosted, rows):
    bundle = pack(boosted, rows[0])
    return Facts(bundle.manifest, "# python 3.11.7\nnumpy==2.4.6\n", {"skl2onnx": "1.20"})


def with_file(facts, name, digest):
    files = {**facts.manifest.files, name: disk.FileEntry(digest, 1)}
    return replace(facts, manifest=replace(facts.manifest, files=files))


def test_equal_facts_differ_in_nothing(facts):
    assert differences(facts, facts) == ()


def test_a_file_that_differs_names_the_versions_that_do(facts):
    after = with_file(facts, "programs/onnx.onnx", "sha256:other")
    after = replace(
        after, environment="# python 3.11.7\nnumpy==2.5.0\n", made_with={"skl2onnx": "1.21"}
    )

    (difference,) = differences(facts, after)

    assert difference.what == "programs/onnx.onnx"
    assert difference.rebuilt == "sha256:other"
    assert difference.why == "numpy 2.4.6 -> 2.5.0, skl2onnx 1.20 -> 1.21"


def test_the_environment_is_explained_by_its_own_lines(facts):
    after = with_file(facts, ENVIRONMENT, "sha256:other")
    after = replace(after, environment="# python 3.12.1\nnumpy==2.4.6\n", made_with={})

    (difference,) = differences(facts, after)
    assert difference.why == "python 3.11.7 -> 3.12.1"


def test_a_file_of_one_side_alone_is_shown_as_missing_on_the_other(facts):
    after = with_file(facts, "programs/another.npz", "sha256:new")
    after = replace(after, made_with={"skl2onnx": "1.20", "llvmlite": "0.46"})

    (difference,) = differences(facts, after)
    assert difference.packed == "-"
    assert difference.why == "llvmlite missing -> 0.46"
    (back,) = differences(after, facts)
    assert back.rebuilt == "-"


def test_a_part_of_the_manifest_that_differs_is_named(facts):
    after = replace(facts, manifest=replace(facts.manifest, task="other"))

    (difference,) = differences(facts, after)
    assert (difference.what, difference.packed, difference.rebuilt) == (
        "bundle.json: task",
        "classification",
        "other",
    )


def test_tools_that_were_not_recorded_explain_nothing(facts):
    before = replace(facts, made_with={})
    (difference,) = differences(before, with_file(facts, "data/example.json", "sha256:other"))
    assert difference.why == "nothing that is recorded explains it"


def _reseal(bundle, name, change):
    """Alter a file and make every digest right again, as somebody with write access could."""
    data = change((bundle.path / name).read_bytes())
    (bundle.path / name).write_bytes(data)
    manifest = json.loads((bundle.path / disk.MANIFEST).read_bytes())
    manifest["files"][name] = {"sha256": sha256_bytes(data), "bytes": len(data)}
    (bundle.path / disk.MANIFEST).write_bytes(canonical_json(manifest))
    for file in (bundle.path / disk.STATEMENTS).glob("*.json"):
        said = json.loads(file.read_bytes())
        file.unlink()
        at = datetime.fromisoformat(said["at"])
        disk.write_statement(bundle.path, said["kind"], said["body"], at=at, by=said["by"])
