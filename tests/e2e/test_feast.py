"""Feast itself, with SQLite online and files offline: served, and joined in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from tests.feature_repositories import TTL, feast_imported, make_repository

import bascule
from bascule.bundle.disk import read_manifest
from bascule.bundle.features import declared, join
from bascule.bundle.features.feast import Feast
from bascule.core import DType, Invalid
from bascule.monitoring.ledger import Ledger
from bascule.training import prepare, read_newest, train
from bascule.training.pipelines import parsed

pytestmark = [
    pytest.mark.slow,  # to import Feast takes some seconds
    pytest.mark.filterwarnings("ignore"),  # Feast leaves files open, and calls what is to go
]

NOW = datetime.now(UTC).replace(microsecond=0)
BASE = pd.Timestamp("2026-01-01", tz="UTC")
FIT = """
from sklearn.ensemble import HistGradientBoostingClassifier
def fit(inputs, truth):
    columns = ["distance", "delay", "flights"]
    return HistGradientBoostingClassifier(max_iter=5).fit(inputs[columns], truth)
"""


@pytest.fixture(scope="module", autouse=True)
def feast(tmp_path_factory):
    with feast_imported(tmp_path_factory.mktemp("metrics")):
        yield


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """AA has two versions, BB one, and that of DL is a week old."""
    folder = tmp_path_factory.mktemp("feast")
    ages = [timedelta(hours=3), timedelta(hours=1), timedelta(hours=2), timedelta(days=7)]
    rows = pd.DataFrame(
        {
            "carrier": ["AA", "AA", "BB", "DL"], "at": [NOW - age for age in ages],
            "created": [NOW] * 4, "delay": [1.0, 2.0, 3.0, 4.0], "flights": [10, 20, 30, 40],
        }
    )  # fmt: skip
    make_repository(folder, rows)
    return folder


@pytest.fixture(scope="module")
def bundle(repository, packed):
    from sklearn.ensemble import HistGradientBoostingClassifier

    random = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "distance": random.uniform(100, 3_000, 300), "delay": random.normal(3, 2, 300),
            "flights": random.integers(1, 50, 300),
        }
    )  # fmt: skip
    X.loc[::7, "delay"] = np.nan
    y = X.delay.fillna(0) + X.distance / 1_000 > 4
    model = HistGradientBoostingClassifier(max_iter=10).fit(X, y)
    return packed("late", model, (X, y), explain=False, features=f"{repository}#late")


def test_a_bundle_says_which_features_of_which_keys_it_takes(bundle, repository):
    said = declared(bundle, read_manifest(bundle))
    assert dict(said.keys) == {"carrier": DType.BYTES}
    assert dict(said.max_age_s) == {"delay": 86_400.0, "flights": 86_400.0}
    assert Feast(str(repository)).describe("late_by_origin").keys == {"origin": DType.BYTES}
    with pytest.raises(Invalid, match="nobody"):
        Feast(str(repository)).describe("nobody")
    with pytest.raises(Invalid, match="feature store"):
        Feast("/nowhere")


def test_the_server_answers_by_keys_as_by_features_written_out(bundle, repository, serve, tmp_path):
    keys = pd.DataFrame({"carrier": ["AA", "BB", "DL"], "distance": [500.0, 900.0, 700.0]})
    written = keys.assign(delay=[2.0, 3.0, np.nan], flights=[20, 30, np.nan])  # DL is too old
    expected = bascule.load(bundle).predict(written)["probabilities"]
    settings = {
        "BASCULE_HOME": str(tmp_path / "home"), "BASCULE_MONITORING__LEDGER": "auto",
        "BASCULE_SERVING__FEATURE_STORE": str(repository),
    }  # fmt: skip
    server = serve(bundle, env=settings)
    with bascule.Client(f"http://127.0.0.1:{server.port}", model="late") as client:
        answer = client.predict(keys)
    np.testing.assert_array_equal(answer["probabilities"], expected)
    server.end()
    rows = Ledger(tmp_path / "home").query(
        'SELECT "input.delay" AS delay, "input.feature_age_s" AS age_s FROM predictions '
        "WHERE status = 200 ORDER BY row", model="late",
    ).to_pylist()  # fmt: skip
    assert [row["delay"] for row in rows[:2]] == [2.0, 3.0]
    ages = [row["age_s"] for row in rows]
    since_s = (datetime.now(UTC) - NOW).total_seconds()
    assert ages[:2] == pytest.approx([3_600 + since_s, 7_200 + since_s], abs=60)
    assert np.isnan(ages[2]), "nothing was looked up that could be used"


def features_at_random(random, count=400):
    """Versions of features in disorder: late ones, corrected ones, equal ones, and gaps."""
    at = BASE + pd.to_timedelta(random.integers(0, 200, count), unit="h")
    return pd.DataFrame(
        {
            "carrier": random.choice([*"ABCD"], count), "at": at,
            "created": at + pd.to_timedelta(random.integers(0, 50, count), unit="h"),
            "delay": random.normal(size=count), "flights": random.integers(0, 9, count),
        }
    )  # fmt: skip


def test_no_row_is_joined_with_what_came_after_it_and_none_is_lost(tmp_path):
    """Against a search through all versions; rows of equal keys and times are among them.

    Of versions of one event Feast's local store takes any (feast-dev/feast, issue 3360).
    """
    random = np.random.default_rng(0)
    features = features_at_random(random)
    make_repository(tmp_path, features)
    times = BASE + pd.to_timedelta(random.integers(-20, 240, 300), unit="h")
    rows = pd.DataFrame(
        {"origin": random.choice([*"ABCDE"], 300), "when": times, "late": random.random(300) < 0.5},
        index=random.permutation(300),
    )  # fmt: skip
    rows = pd.concat([rows, rows[:20]])
    joined = join(f"{tmp_path}#late_by_origin", rows, "when")
    pd.testing.assert_frame_equal(joined[[*rows]], rows)
    missing = 0
    for origin, when, delay in zip(joined.origin, joined.when, joined.delay, strict=True):
        known = features[
            (features.carrier == origin) & (features["at"] <= when) & (features["at"] >= when - TTL)
        ]
        newest = known[known["at"] == known["at"].max()].delay
        assert delay in newest.tolist() if len(known) else np.isnan(delay)
        missing += not len(known)
    assert 0 < missing < len(rows)


def test_the_values_at_the_edges_of_time_are_those_of_feast(tmp_path):
    """A feature of that very moment is known; one as old as the time to live still is."""
    at = [BASE, BASE]
    features = pd.DataFrame(
        {"carrier": ["A", "B"], "at": at, "created": at, "delay": [1.0, 2.0], "flights": [1, 2]}
    )
    make_repository(tmp_path, features)
    second = pd.Timedelta(seconds=1)
    times = [BASE - second, BASE, BASE + TTL, BASE + TTL + second]
    joined = join(f"{tmp_path}#late", pd.DataFrame({"carrier": "A", "when": times}), "when")
    np.testing.assert_array_equal(joined.delay, [np.nan, 1.0, 1.0, np.nan])
    with pytest.raises(Invalid, match="joined by 'carrier'"):
        join(f"{tmp_path}#late", pd.DataFrame({"when": times}), "when")
    with pytest.raises(Invalid, match="has no times"):
        join(f"{tmp_path}#late", pd.DataFrame({"carrier": ["A"], "when": ["soon"]}), "when")


def test_a_pipeline_trains_on_what_was_known_and_says_so_in_its_bundle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(1)
    features = features_at_random(random)
    make_repository(tmp_path / "repository", features)
    rows = pd.DataFrame(
        {
            "carrier": random.choice([*"ABCD"], 300), "distance": random.uniform(100, 999, 300),
            "at": BASE + pd.to_timedelta(random.integers(24, 200, 300), unit="h"),
        }
    )  # fmt: skip
    rows["late"] = rows.distance > 500
    rows.to_parquet("flights.parquet")
    (tmp_path / "fit.py").write_text(FIT)
    content = {
        "data": "flights.parquet", "features": "repository#late", "target": "late", "time": "at",
        "fit": "fit.py:fit",
    }  # fmt: skip
    pipeline = parsed("late", content)
    first = read_newest(pipeline)
    assert {"delay", "flights"} < {*first.train.column_names}
    trained = train(prepare(pipeline), tmp_path / "work")
    said = declared(trained.bundle.path, trained.bundle.manifest)
    assert dict(said.keys) == {"carrier": DType.BYTES}
    # A version that comes late, and was true before, changes the rows: the run is another one.
    corrected = features.assign(delay=features.delay + 1)
    corrected.to_parquet(tmp_path / "repository" / "carriers.parquet")
    assert read_newest(pipeline).digest != first.digest
    with pytest.raises(Invalid, match="joined by time"):
        parsed("late", {**content, "time": ""})
