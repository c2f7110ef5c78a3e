"""Commands whose result cannot be written where it was asked for: a mount or folder to read."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sklearn.datasets import load_breast_cancer

import bascule
from bascule.core.errors import Conflict, Invalid

CHECK = ("check", "gb.bundle", "-c", "accuracy >= 0.5")
RULE = "cannot be written: Permission denied"


@pytest.fixture
def bundle(cancer_bundle, tmp_path):
    return shutil.copytree(cancer_bundle, tmp_path / "gb.bundle")


@pytest.fixture
def run(bundle, monkeypatch, command):
    """Run a command beside the bundle: (exit code, output, messages)."""
    monkeypatch.chdir(bundle.parent)
    return command


@pytest.fixture
def rows(tmp_path):
    np.save(tmp_path / "rows.npy", load_breast_cancer(return_X_y=True)[0][:3])
    return tmp_path / "rows.npy"


@pytest.fixture
def pipe(tmp_path):
    """As harmless as a device is not, should somebody overwrite it."""
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.fixture
def closed(tmp_path, may_only_read):
    """A folder that can be read alone."""
    folder = tmp_path / "closed"
    folder.mkdir()
    with may_only_read(folder):
        yield folder


def test_the_card_of_a_bundle_that_can_only_be_read_is_printed(run, bundle, may_only_read):
    before = sorted(bundle.rglob("*"))
    with may_only_read(bundle):
        code, card, messages = run("card", "gb.bundle")

    assert code == 0
    assert card.startswith("# ")
    assert "| accuracy |" in card
    assert messages.startswith("warning: the bundle keeps the card that it had: gb.bundle/")
    assert RULE in messages
    assert sorted(bundle.rglob("*")) == before


def test_a_verdict_that_cannot_be_recorded_is_told_all_the_same(run, bundle, may_only_read):
    with may_only_read(bundle):
        code, out, messages = run(*CHECK)
        as_json = run(*CHECK, "--json")

    assert code == 2
    assert "passed" in out
    assert "the verdict was not recorded: gb.bundle/statements/gates-" in messages
    assert RULE in messages
    assert "copy the bundle to a folder that you may write to" in messages
    assert as_json[0] == 2
    told = json.loads(as_json[1])
    assert told["passed"] is True
    assert told["error"].startswith("the verdict was not recorded: ")


def test_a_report_that_cannot_be_written_is_told_after_the_verdict_was_recorded(
    run, bundle, closed
):
    written = bundle.parent / "report.xml"
    code, out, messages = run(*CHECK, "-o", f"junit:{written}", "-o", f"json:{closed}/x.json")

    assert code == 2
    assert "passed" in out
    assert f"--output json:{closed}/x.json {RULE}" in messages
    assert written.exists()
    assert bascule.load(bundle).statements("gates")


def test_a_failed_gate_is_no_reason_to_be_silent_of_what_was_not_recorded(
    run, bundle, may_only_read
):
    with may_only_read(bundle):
        code, out, messages = run("check", "gb.bundle", "-c", "accuracy <= 0.1")
    assert code == 2
    assert "failed: 1 of 1" in out
    assert "the verdict was not recorded" in messages


def test_a_report_may_go_into_a_pipe_which_stays_one(run, pipe):
    with open(os.open(pipe, os.O_RDWR), "rb", buffering=0) as reader:
        assert run(*CHECK, "-o", f"markdown:{pipe}")[0] == 0
        assert reader.read(10_000).startswith(b"### gb.bundle passed")
    assert pipe.is_fifo()


def test_a_signature_that_cannot_be_written_is_one_sentence(run, bundle, tmp_path, may_only_read):
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "ada.pem").write_bytes(key)
    with may_only_read(bundle):
        code, _, messages = run("sign", "gb.bundle", "--key", "ada.pem")
    assert code == 2
    assert f"gb.bundle/statements/model.sig {RULE}" in messages


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_answers_that_could_not_be_written_are_not_even_asked_for(
    run, rows, closed, suffix, monkeypatch
):
    monkeypatch.setattr("bascule.bundle.load", None)
    code, _, messages = run("predict", "gb.bundle", rows, "-o", closed / f"x{suffix}")
    assert code == 2
    assert f"x{suffix} {RULE}" in messages


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_place_that_closes_while_answers_are_written_is_told_by_its_own_name(
    run, rows, closed, suffix, monkeypatch
):
    monkeypatch.setattr("bascule.batch.table_files.check_writable", lambda _: None)
    code, _, messages = run("predict", "gb.bundle", rows, "-o", closed / f"x{suffix}")
    assert code == 2
    assert f"x{suffix} {RULE}" in messages


def test_a_card_that_cannot_be_written_where_it_was_asked_for_is_an_error(run, closed):
    code, _, messages = run("card", "gb.bundle", "-o", closed / "card.html")
    assert code == 2
    assert f"--output {closed}/card.html {RULE}" in messages
    assert "choose a place that you may write to" in messages


def test_a_bundle_is_made_in_no_closed_folder_and_over_nothing_but_a_bundle(
    bundle, closed, pipe, monkeypatch
):
    X, y = load_breast_cancer(return_X_y=True)

    def pack(to):
        bascule.pack(_forest(X, y), name="x", train=X, to=to, overwrite=True)

    with pytest.raises(Invalid, match=f"closed/b {RULE}"):
        pack(closed / "b")
    with pytest.raises(Conflict, match="is not a bundle"):
        pack(pipe)
    monkeypatch.chdir(bundle)  # `.` is a bundle, and could be replaced
    for place in (".", "/", ".."):
        with pytest.raises(Invalid, match="names no folder of its own"):
            pack(place)


def _forest(X, y):
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(2, max_depth=2, random_state=0).fit(X, y)


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        (".", 2, "names no file"),
        ("/", 2, "names no file"),
        ("pipe", 4, "pipe exists and is no regular file"),
        ("gb.bundle", 4, "gb.bundle exists and is no regular file"),
        ("nowhere/gb.tar", 2, "nowhere/gb.tar cannot be written: No such file or directory"),
    ],
)
def test_a_version_is_exported_over_nothing_but_a_file(run, pipe, target, code, said):
    assert run("push", "gb.bundle")[0] == 0
    ended, _, messages = run("export", "gb/1", target, "--overwrite")
    assert ended == code
    assert said in messages
    assert pipe.is_fifo()


def test_an_export_into_a_closed_folder_is_one_sentence(run, closed):
    assert run("push", "gb.bundle")[0] == 0
    code, _, messages = run("export", "gb/1", closed / "gb.tar")
    assert code == 2
    assert f"gb.tar {RULE}" in messages


# -- a home that can only be read --


@pytest.fixture
def home(run, bundle, tmp_path, may_only_read, monkeypatch):
    """A registry with one version, in a folder that can be read alone."""
    home = tmp_path / "home"
    monkeypatch.setenv("BASCULE_HOME", str(home))
    assert run("push", "gb.bundle")[0] == 0
    with may_only_read(home):
        yield home


def test_what_reads_a_registry_that_can_only_be_read_goes_on(run, home, rows):
    before = sorted(home.rglob("*"))
    for words in (
        ("models",), ("show", "gb"), ("history", "gb"), ("predict", "gb", rows), ("card", "gb"),
        ("search", "model = gb"), ("keys", "list"), ("export", "gb/1", "gb.tar"),
    ):  # fmt: skip
        code, _, messages = run(*words)
        assert (code, words) == (0, words), messages
    assert sorted(home.rglob("*")) == before


def test_what_writes_to_it_says_so_in_a_sentence_with_the_next_step(run, home):
    for words in (
        ("push", "gb.bundle"), ("alias", "gb/1", "champion"), ("tag", "gb/1", "a=b"), ("gc",),
        ("keys", "create", "k", "--allow", "infer:gb"), ("retire", "gb/1", "--reason", "x"),
    ):  # fmt: skip
        code, _, messages = run(*words)
        assert code in (2, 6), (words, messages)
        assert messages.startswith("error: ")
        assert "hint: " in messages


def test_a_home_that_cannot_be_made_is_a_sentence(run, bundle, closed, monkeypatch):
    monkeypatch.setenv("BASCULE_HOME", str(closed / "home"))
    code, _, messages = run("push", "gb.bundle")
    assert code == 6
    assert "set BASCULE_HOME to a folder that you may write to" in messages
    assert run("doctor")[0] == 1
