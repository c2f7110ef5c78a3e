import importlib.util
import io
import json
import queue
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from rich.console import Console

from bascule.core.errors import MissingExtra, Unavailable
from bascule.demo import chapters, flights, rollouts, story
from bascule.demo.server import start
from bascule.demo.story import run_demo

pytestmark = pytest.mark.filterwarnings("ignore:.*subprocess.*still running:ResourceWarning")


@pytest.fixture(scope="module")
def everything():
    return flights.load_flights()


@pytest.fixture
def small(everything, monkeypatch, tmp_path):
    """The same story with one flight in eighty, under a folder of the test's."""
    monkeypatch.setattr(flights, "load_flights", lambda: everything.iloc[::80])
    build = flights.build_model
    monkeypatch.setattr(flights, "build_model", lambda: build().set_params(classify__max_iter=5))
    monkeypatch.setattr(chapters, "CRITERIA", ["roc_auc >= 0.6", "parity <= 1e-5"])
    monkeypatch.setattr(chapters, "_ORIGINAL_ROWS", 5)
    monkeypatch.setattr(rollouts, "GUARDS", ["errors +5 pp"])
    monkeypatch.setattr(rollouts, "candidates", again)
    monkeypatch.setattr(story.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def again(months):
    """One version to roll out: the same model."""
    model = flights.build_model().fit(months.train[flights.FEATURES], months.train["late"])
    yield rollouts.Candidate("the same again", "promoted", model)


def test_the_first_version_is_packed_before_it_is_asked_for_and_one_more_while_it_is_tried():
    begun, packed = [], queue.Queue()

    def versions():
        for number in (2, 3, 4):
            begun.append(number)
            packed.put(number)
            yield number

    with ThreadPoolExecutor(1) as worker:
        ahead = rollouts.computed_ahead(versions(), worker)
        assert packed.get(timeout=20) == 2
        assert next(ahead) == 2
        assert packed.get(timeout=20) == 3
        assert begun == [2, 3]
        assert list(ahead) == [3, 4]


def running_in(folder):
    """The processes whose registry is there; other tests run servers at the same time."""
    return [
        process
        for process in psutil.process_iter(["environ"])
        if str(folder) in (process.info["environ"] or {}).get("BASCULE_HOME", "")
    ]


def test_the_story_of_one_version_holds_and_leaves_nothing_behind(small, monkeypatch):
    """The short form of the whole story: no further version is rolled out."""
    monkeypatch.setattr(rollouts, "candidates", lambda months: iter(()))
    output = io.StringIO()
    code = run_demo(keep=False, as_json=False, console=Console(file=output, width=120))
    told = output.getvalue()

    assert code == 0, told
    assert [title in told for title in ("Learn", "Pack", "Check", "Push", "Serve", "Summary")]
    assert "late@champion -> late/1" in told
    assert "0 errors" in told
    assert list(small.iterdir()) == []
    assert running_in(small) == []


@pytest.mark.slow
def test_the_whole_story_holds_and_leaves_nothing_behind(small):
    output = io.StringIO()
    code = run_demo(keep=False, as_json=False, console=Console(file=output, width=120))
    told = output.getvalue()

    assert code == 0
    assert [title in told for title in ("Learn", "Pack", "Check", "Push", "Serve", "Summary")]
    assert "late@champion -> late/1" in told
    assert "late/2 is within every guard" in told
    assert "0 errors" in told
    assert "broken" not in told
    assert list(small.iterdir()) == []
    assert running_in(small) == []


@pytest.mark.slow
def test_a_failed_gate_moves_no_alias_and_ends_with_one(small, monkeypatch, capsys):
    monkeypatch.setattr(chapters, "CRITERIA", ["roc_auc >= 0.999"])
    monkeypatch.setattr(rollouts, "candidates", lambda months: iter(()))
    code = run_demo(keep=False, as_json=True)
    summary = json.loads(capsys.readouterr().out)

    assert code == 1
    assert not summary["held"]
    assert not summary["gates_passed"]
    assert summary["version"] == "late/1"
    assert (summary["errors"], summary["wrong"]) == (0, 0)


@pytest.mark.slow
def test_kept_the_server_runs_on_and_the_story_says_where(small, capsys):
    code = run_demo(keep=True, as_json=True)
    said = capsys.readouterr()
    running = json.loads(said.out)["running"]
    server = psutil.Process(running["pid"])
    try:
        assert code == 0
        assert server in running_in(small)
        assert f"curl -s {running['url']}/v2/models/late/infer" in said.err
        assert f"kill {running['pid']}" in said.err
    finally:
        family = [server, *server.children(recursive=True)]
        server.send_signal(signal.SIGTERM)
        psutil.wait_procs(family, timeout=15)


def test_a_missing_part_is_named_before_anything_is_begun(monkeypatch, tmp_path):
    monkeypatch.setattr(story.tempfile, "tempdir", str(tmp_path))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "skops" else find(name)
    )

    with pytest.raises(MissingExtra, match="not installed: skops"):
        run_demo(keep=False, as_json=False)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_start_is_an_error_with_its_last_words(tmp_path):
    with pytest.raises(Unavailable, match="the server ended") as raised:
        start("nothing/1", home=tmp_path / ".bascule", folder=tmp_path)

    assert str(tmp_path / "server.log") in raised.value.hint


def test_the_users_own_settings_do_not_reach_the_server(tmp_path, monkeypatch):
    monkeypatch.setenv("BASCULE_SERVING__WORKERS", "not a number")

    with pytest.raises(Unavailable) as raised:
        start("nothing/1", home=tmp_path / ".bascule", folder=tmp_path)
    assert "WORKERS" not in str(raised.value)
