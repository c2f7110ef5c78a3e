"""Windows of profiles: each answered row once, in constant memory, merged over hosts."""

from __future__ import annotations

import time
from datetime import date
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from tests.ledger_rows import killed_at, take_in

from bascule.bundle.statements import profile_of
from bascule.core import Untrusted
from bascule.monitoring.ledger import Ledger, Scribe, SpoolWriter, scribe as scribing
from bascule.monitoring.ledger.manifest import commit, read_manifest
from bascule.monitoring.ledger.scribe import kept_profiles
from bascule.monitoring.profiles import MAX_ROWS_PER_S, ProfileFile, folding, read_windows
from bascule.serving.calls import Answer, AnsweredBy, Call
from bascule.serving.telemetry import LedgerRecorder, MetricLabels
from bascule.stats import projected_names, projections

LABEL = MetricLabels("gb", "1")
NAMES = (("x", ("size", "weight")), ("probabilities", ("probabilities.no", "probabilities.yes")))
BY = AnsweredBy("gb", "1", "onnx", NAMES)
DAY = date(2026, 11, 26)
NOON_NS = 1_795_694_400_000_000_000


class Server:
    """A worker and the scribe of one home."""

    def __init__(self, home, **options):
        self.home = home
        self.options = options
        self.begin()

    def begin(self):
        self.recorder = LedgerRecorder(SpoolWriter(self.home), **self.options)

    def answer(self, rows=1, *, at_ns=NOON_NS, status=200, label=LABEL, by=BY, texts=("a",)):
        context = SimpleNamespace(
            prediction_id="id-of-mine", caller="key-of-mine", protocol="oip", trace=(b"", b""),
            started_ns=at_ns - self.recorder._epoch_ns,
        )  # fmt: skip
        x = np.arange(rows * 2.0).reshape(rows, 2)
        call = Call({"x": x, "kind": np.resize(np.array(texts, object), rows)}, rows)
        probabilities = np.tile([0.25, 0.75], (rows, 1))
        answer = None if status != 200 else Answer({"probabilities": probabilities}, by)
        self.recorder.add(context, call, answer, label, status, 1_000)

    def end(self):
        self.recorder.close()
        take_in(self.home)


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path)


def test_a_window_has_the_columns_of_the_baseline_and_counts_every_answered_row(server):
    server.answer(3, texts=("a", None))
    server.answer(2)
    server.answer(4, status=400)
    server.end()
    (window,) = read_windows(server.home, "gb")
    assert (window.model, window.version, window.day) == ("gb", "1", "2026-11-26")
    assert (window.rows, window.profiled_rows, window.inputs.rows, window.outputs.rows) == (5,) * 4
    assert list(window.inputs.columns) == ["size", "weight", "kind"]
    assert list(window.outputs.columns) == ["probabilities.no", "probabilities.yes"]
    assert window.inputs.columns["size"].moments.most == 4
    assert window.inputs.columns["kind"].missing == 1
    assert window.inputs.columns["kind"].frequent.counts == {"a": 4}
    assert window.outputs.columns["probabilities.yes"].moments.mean == 0.75


def test_a_window_has_the_projections_that_the_baseline_has(server):
    names = (*NAMES, ("kind", projected_names("kind", is_text=True)))
    rows = ("late at the gate", None, "in time")
    server.answer(3, texts=rows, by=AnsweredBy("gb", "1", "onnx", names))
    server.end()
    (window,) = read_windows(server.home, "gb")
    expected = profile_of(projections("kind", np.array(rows, object))).to_json()["columns"]
    assert window.inputs.to_json()["columns"][3:] == expected


def test_there_is_one_window_for_each_version_and_utc_day_the_oldest_first(server):
    second = MetricLabels("gb", "2"), AnsweredBy("gb", "2", "onnx", NAMES)
    midnight_ns = NOON_NS + 12 * 3_600_000_000_000
    server.answer(1, at_ns=midnight_ns)
    server.answer(2, at_ns=midnight_ns - 1)
    server.answer(3, label=second[0], by=second[1])
    server.answer(1, label=MetricLabels("other", "1"), by=AnsweredBy("other", "1", "onnx"))
    server.end()
    found = [(one.day, one.version, one.rows) for one in read_windows(server.home, "gb")]
    assert found == [("2026-11-26", "1", 2), ("2026-11-26", "2", 3), ("2026-11-27", "1", 1)]
    assert read_windows(server.home, "nobody") == []


def test_a_window_grows_over_turns_and_restarts_in_one_file(server):
    for _ in range(3):
        server.answer(5)
        server.end()
        server.begin()
    (window,) = read_windows(server.home, "gb")
    assert (window.rows, window.inputs.rows) == (15, 15)
    assert len(list(server.home.rglob("*.profile"))) == 1


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [(folding, "write_window", False), (scribing, "commit", False), (scribing, "commit", True)],
    ids=["write_window", "before", "after"],
)
def test_a_scribe_that_dies_at_a_step_leaves_each_row_once(server, owner, name, after):
    server.answer(5)
    server.end()
    server.begin()
    server.answer(7)
    server.recorder.close()
    dying = Scribe(server.home)
    with killed_at(owner, name, after=after):
        dying.turn(everything=True)
    dying.close()
    take_in(server.home)
    (window,) = read_windows(server.home, "gb")
    assert (window.rows, window.inputs.columns["size"].rows) == (12, 12)
    assert len(list(server.home.rglob("*.profile"))) == 1


@pytest.mark.parametrize(("rows", "profiled"), [(0, MAX_ROWS_PER_S), (1, MAX_ROWS_PER_S)])
def test_above_the_rate_a_uniform_sample_is_profiled_and_the_window_says_so(
    tmp_path, rows, profiled
):
    server = Server(tmp_path, max_rows_per_s=1_000_000)
    for _ in range(MAX_ROWS_PER_S // 500):
        server.answer(500)
    if rows:
        server.answer(rows)
    server.end()
    (window,) = read_windows(server.home, "gb")
    assert window.rows == MAX_ROWS_PER_S + rows
    assert window.profiled_rows == window.inputs.rows == profiled


def test_sampled_requests_are_counted_by_what_they_stand_for(tmp_path):
    server = Server(tmp_path, max_rows_per_s=100)
    for _ in range(4_000):
        server.answer()
    server.end()
    (window,) = read_windows(server.home, "gb")
    assert window.profiled_rows <= 100
    assert window.rows == pytest.approx(4_000, rel=0.6)


def test_windows_of_several_hosts_are_one(server):
    server.answer(5)
    server.end()
    manifest = read_manifest(server.home)
    other = msgspec.structs.replace(manifest.profiles[0], host="elsewhere")
    manifest.profiles.append(other)
    commit(server.home, manifest)
    server.begin()
    server.answer(1)
    server.recorder.close()
    # The file of the other host stays, although this one replaces its own.
    (server.home / "ledger/copy.profile").write_bytes(
        (server.home / "ledger" / other.file).read_bytes()
    )
    manifest.profiles[1] = msgspec.structs.replace(other, file="copy.profile")
    commit(server.home, manifest)
    take_in(server.home)
    (window,) = read_windows(server.home, "gb")
    assert (window.rows, window.inputs.rows) == (11, 11)


def test_without_rows_neither_row_nor_id_nor_caller_is_on_the_disk(tmp_path):
    server = Server(tmp_path, is_anonymous=True)
    for _ in range(3):
        server.answer()
    server.recorder.flush()
    server.recorder._spool.append(b"", 0)
    deadline = time.monotonic() + 5
    while not list(tmp_path.rglob("*.blocks")) and time.monotonic() < deadline:
        time.sleep(0.01)
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or b"of-mine" not in file.read_bytes()
    assert Ledger(tmp_path).query("select count(*) n from predictions").to_pylist() == [{"n": 0}]
    server.end()
    assert list(tmp_path.rglob("*.parquet")) == []
    assert [one.rows for one in read_windows(tmp_path, "gb")] == [3]


def test_windows_are_kept_for_400_days():
    def file(day):
        return ProfileFile(
            file=day, host="h", model="m", version="1", day=day, rows=1, profiled_rows=1,
            size_bytes=1,
        )  # fmt: skip

    kept, gone = file("2025-10-22"), file("2025-10-21")
    now = scribing.datetime(2026, 11, 26, tzinfo=scribing.UTC)
    assert kept_profiles([gone, kept], now) == [kept]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "is no window"),
        (b'{"rows":1,"profiled_rows":1,"inputs":{},"outputs":{},"format":2}', "format 2"),
    ],
)
def test_a_window_that_is_damaged_or_newer_is_refused(server, content, problem):
    server.answer()
    server.end()
    (file,) = server.home.rglob("*.profile")
    file.write_bytes(content)
    with pytest.raises(Untrusted, match=problem):
        read_windows(server.home, "gb")


def test_a_damaged_window_is_begun_anew_and_the_ledger_goes_on(server, caplog):
    server.answer(3)
    server.end()
    (file,) = server.home.rglob("*.profile")
    file.write_bytes(b"{")
    server.begin()
    server.answer(2)
    server.end()
    (window,) = read_windows(server.home, "gb")
    assert window.rows == 2
    assert "3 rows are no longer in the profiles of gb/1 on 2026-11-26" in caplog.text


def test_a_column_that_turns_from_texts_to_numbers_stays_one_of_texts(server):
    server.answer(1, texts=("a",))
    context = SimpleNamespace(
        prediction_id="b", caller="", protocol="oip", trace=(b"", b""),
        started_ns=NOON_NS - server.recorder._epoch_ns,
    )  # fmt: skip
    call = Call({"x": np.zeros((1, 2)), "kind": np.ones(1)}, 1)
    answer = Answer({"probabilities": np.ones((1, 2))}, BY)
    server.recorder.add(context, call, answer, LABEL, 200, 1)
    server.end()
    (window,) = read_windows(server.home, "gb")
    assert window.rows == window.inputs.columns["size"].rows == 2
    assert window.inputs.columns["kind"].rows == 1
