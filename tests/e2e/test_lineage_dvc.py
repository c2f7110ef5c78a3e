"""Lineage from DVC: a real repository with a real remote, and what DVC recorded of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tests.origins import ROWS

import bascule
from bascule.core.errors import Invalid, NotFound, Refused
from bascule.packing.lineage import trace


@pytest.fixture
def work(dvc, tmp_path, monkeypatch):
    """The repository's folder."""
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_what_dvc_tracks_is_recorded_with_its_hash_its_remote_and_its_revision(work, dvc, tmp_path):
    found = trace("dvc:data/train.csv")

    assert found["kind"] == "dvc"
    assert found["path"] == "data/train.csv"
    assert found["md5"] in (work / "data" / "train.csv.dvc").read_text()
    assert found["size"] == len(ROWS)
    assert found["record"] == "data/train.csv.dvc"
    assert found["remote"] == {"name": "store", "url": "../../store"}
    commit = dvc("rev-parse", "HEAD", program="git").strip()
    assert found["git"] == {"commit": commit, "dirty": False}
    md5 = found["md5"]
    assert (tmp_path / "store" / "files" / "md5" / md5[:2] / md5[2:]).read_text() == ROWS


def test_the_record_itself_names_the_same(work):
    assert trace("dvc:data/train.csv.dvc") == trace("dvc:data/train.csv")


def test_rows_that_are_not_those_that_dvc_recorded_are_refused(work):
    (work / "data" / "train.csv").write_text(ROWS.replace("1", "2", 1))

    with pytest.raises(Refused, match=r"data/train.csv is not what DVC recorded") as refused:
        trace("dvc:data/train.csv")
    assert "dvc checkout" in refused.value.hint


def test_a_record_that_is_not_committed_is_dirty(work, dvc):
    (work / "data" / "train.csv").write_text(ROWS + "1,1,1\n")
    dvc("add", "-q", "data/train.csv")

    assert trace("dvc:data/train.csv")["git"]["dirty"] is True


def test_another_file_that_changed_does_not_make_the_record_dirty(work):
    (work / "notes.txt").write_text("later")

    assert trace("dvc:data/train.csv")["git"]["dirty"] is False


def test_a_file_that_is_not_here_says_how_to_get_it(work, dvc):
    (work / "data" / "train.csv").unlink()
    with pytest.raises(NotFound) as missing:
        trace("dvc:data/train.csv")
    assert missing.value.hint == "dvc pull data/train.csv"

    dvc("pull", "-q", "data/train.csv")
    assert trace("dvc:data/train.csv")["size"] == len(ROWS)


def test_an_output_of_a_stage_is_found_in_the_lock_with_its_stage(work, dvc):
    (work / "dvc.yaml").write_text(
        "stages:\n"
        "  prepare:\n"
        "    cmd: mkdir -p parts && cp data/train.csv ready.csv && cp ready.csv parts/one.csv\n"
        "    deps: [data/train.csv]\n"
        "    outs: [ready.csv, parts]\n"
    )
    dvc("repro", "-q")

    ready = trace("dvc:ready.csv")
    assert (ready["record"], ready["stage"]) == ("dvc.lock", "prepare")
    inside = trace("dvc:parts/one.csv")
    assert inside["md5"] == ready["md5"]
    assert inside["inside"]["md5"].endswith(".dir")
    (work / "parts" / "two.csv").write_text("more")
    with pytest.raises(Refused):
        trace("dvc:parts/one.csv")


def test_a_folder_has_the_hash_that_dvc_gives_it(work, dvc):
    for name in ("b/2.csv", "a.csv", "b-1.csv", "b/1.csv"):
        (work / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "folder" / name).write_text(name)
    dvc("add", "-q", "folder")

    assert trace("dvc:folder")["md5"].endswith(".dir")
    (work / "folder" / "a.csv").write_text("other")
    with pytest.raises(Refused):
        trace("dvc:folder")


@pytest.mark.slow
def test_a_record_of_an_older_dvc_counts_lines_as_unix_does(work, dvc):
    """Such a record has no word for its hash; DVC itself still takes it so."""
    unix, dos = b"a,b\n1,2\n", b"a,b\r\n1,2\r\n"
    (work / "old.csv").write_bytes(unix)
    dvc("add", "-q", "old.csv")
    record = work / "old.csv.dvc"
    record.write_text(
        "".join(line for line in record.read_text().splitlines(True) if "hash:" not in line)
        .replace(f"size: {len(unix)}", f"size: {len(dos)}")
    )  # fmt: skip
    (work / "old.csv").write_bytes(dos)
    md5 = trace("dvc:old.csv")["md5"]
    cached = work / ".dvc" / "cache" / md5[:2] / md5[2:]
    cached.parent.mkdir()
    cached.write_bytes(dos)

    assert "up to date" in dvc("status", "old.csv.dvc")
    assert trace("dvc:old.csv")["record"] == "old.csv.dvc"
    (work / "old.csv").write_bytes(b"a,b\r\n1,3\r\n")
    assert "modified" in dvc("status", "old.csv.dvc")
    with pytest.raises(Refused):
        trace("dvc:old.csv")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("dvc:untracked.csv", "DVC does not track"),
        ("dvc:", "KIND:WHAT"),
        ("data/train.csv", "KIND:WHAT"),
        ("git:HEAD", "KIND:WHAT"),
    ],
)
def test_what_is_no_source_is_refused_in_one_sentence(work, source, message):
    (work / "untracked.csv").write_text("1")
    with pytest.raises(Invalid, match=message):
        trace(source)


def test_outside_of_dvc_nothing_is_tracked(tmp_path):
    with pytest.raises(Invalid, match="in no repository of DVC"):
        trace(f"dvc:{tmp_path / 'x.csv'}")


def test_a_password_of_the_remote_is_not_recorded(work):
    config = work / ".dvc" / "config"
    url = "https://ada:s3cret@host.example/p?key=s3cret"
    config.write_text(config.read_text().replace("../../store", url))

    found = trace("dvc:data/train.csv")
    assert found["remote"]["url"] == "https://host.example/p"


def test_a_bundle_shows_where_its_rows_came_from_and_is_the_same_bundle(work, packed, capsys):
    from bascule.bundle.card import Said, render

    rows = np.array([[i % 7, i % 5] for i in range(40)], float)
    model = LogisticRegression().fit(rows, np.arange(40) % 2)
    plain = bascule.load(packed("plain", model, rows))

    bundle = bascule.pack(
        model, name="plain", train=rows, to="it", lineage=["dvc:data/train.csv"], measure=False
    )

    assert bundle.digest == plain.digest
    (source,) = bundle.statements("provenance")[0].body["lineage"]
    assert source == trace("dvc:data/train.csv")
    card = render(bundle.manifest, Said.of(bundle.statements()))
    assert f"| dvc md5 | {source['md5']} |" in card
    assert bascule.rebuild(bundle.path, train=rows).same


def test_a_bundle_is_not_packed_from_rows_that_changed(work):
    (work / "data" / "train.csv").write_text("another")
    rows = np.ones((4, 2))
    with pytest.raises(Refused):
        bascule.pack(
            LogisticRegression().fit(rows + np.eye(4, 2), [0, 1, 0, 1]),
            name="m",
            train=rows,
            to="it",
            lineage=["dvc:data/train.csv"],
        )
    assert not (work / "it").exists()
