"""Private fields: omitted, or hashed with a key that stays in the home."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tests.ledger_rows import take_in

from bascule.core import Invalid
from bascule.monitoring.ledger import Ledger, SpoolWriter, delete, hash_key
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels
from bascule.settings import load_settings


def record(home, emails):
    recorder = LedgerRecorder(
        SpoolWriter(home), private={"email": "hash", "ssn": "omit"}, key=hash_key(home)
    )
    answer = Answer({"y": np.ones(1)}, AnsweredBy("late", "1", "onnx"))
    for number, email in enumerate(emails):
        context = SimpleNamespace(
            prediction_id=f"{number}", caller="", protocol="oip", trace=(b"", b""), started_ns=0
        )
        fields = {"email": np.array([email], object), "ssn": np.array(["1"], object)}
        recorder.add(context, Call(fields, 1), answer, MetricLabels("late", "1"), 200, 1)
    recorder.close()
    take_in(home)


def test_rows_of_one_person_are_found_and_deleted_by_the_hash(tmp_path):
    record(tmp_path, ["ada", "bob", "ada"])
    where = "\"input.email.hash\" = private_hash('ada')"
    count = f"SELECT count(*) n FROM predictions WHERE {where}"
    ledger = Ledger(tmp_path)
    assert ledger.query(count, model="late").to_pylist() == [{"n": 2}]
    assert delete(tmp_path, "late", where).rows == 2
    left = ledger.query("SELECT * FROM predictions", model="late")
    assert left["id"].to_pylist() == ["1"]
    assert {"input.email", "input.ssn"}.isdisjoint(left.column_names)


def test_no_file_of_the_home_has_the_value(tmp_path):
    record(tmp_path, ["ada@example.org"])
    files = [one for one in tmp_path.rglob("*") if one.is_file()]
    assert any(one.suffix == ".parquet" for one in files)
    assert not any(b"ada@example.org" in one.read_bytes() for one in files)


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path):
    key = hash_key(tmp_path)
    assert hash_key(tmp_path) == key
    assert (tmp_path / "private.key").stat().st_mode & 0o077 == 0
    assert [one.name for one in tmp_path.iterdir()] == ["private.key"]


def test_a_key_that_is_cut_short_is_refused(tmp_path):
    hash_key(tmp_path)
    (tmp_path / "private.key").write_bytes(bytes(31))
    with pytest.raises(OSError, match="has 31 bytes, and a key has 32"):
        hash_key(tmp_path)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('["a", "m.b"]', {"a": "omit", "m.b": "omit"}),
        ('{ a = "hash", "m.b" = "omit" }', {"a": "hash", "m.b": "omit"}),
    ],
)
def test_a_list_omits_and_a_table_says_which(tmp_path, written, read):
    (tmp_path / "bascule.toml").write_text(f"[monitoring]\nprivate = {written}\n")
    assert load_settings(tmp_path, {}).monitoring.private == read


def test_a_misspelt_rule_is_refused(tmp_path):
    (tmp_path / "bascule.toml").write_text('[monitoring]\nprivate = { email = "hsah" }\n')
    with pytest.raises(Invalid, match=r"monitoring\.private\.email: .*'encrypt' or 'tokenise'"):
        load_settings(tmp_path, {})
