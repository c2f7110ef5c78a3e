"""A version that cannot be opened, or cannot answer, is named; the others are reported."""

from __future__ import annotations

import shutil
import sys
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from tests.production import Day, fill, flights, late as lateness, packed
from tests.tiers import first_of

import bascule
from bascule.control import versions_of
from bascule.documents import page as html_of
from bascule.monitoring import measure_performance, measure_production_drift
from bascule.monitoring.reporting import document_of, look_at
from bascule.registry import open_registry

OWN = """
import pathlib


def same(X):
    return X


if pathlib.Path({flag!r}).exists():
    raise RuntimeError("no licence")
"""


def home_of(folder, *bundles):
    """A home whose ledger has answers of each bundle, as a version of late."""
    registry = open_registry(folder / "home")
    for number, bundle in enumerate(bundles, 1):
        registry.push(bundle.path, by="ada")
        days = [Day(back, rows=100, truths=0.5) for back in range(3 * number, 3 * number - 3, -1)]
        fill(folder / "home", bundle, str(number), days)
    return folder / "home"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A home with two versions that are answered by compiled programs."""
    folder = tmp_path_factory.mktemp("compiled")
    return home_of(folder, packed(folder / "first"), packed(folder / "second", seed=1)), None


@pytest.fixture(scope="module")
def licensed(tmp_path_factory):
    """A home whose late/2 has code of its own, and the flag that breaks it."""
    folder = tmp_path_factory.mktemp("licensed")
    flag, file = folder / "flag", folder / "licensed.py"
    file.write_text(OWN.format(flag=str(flag)))
    sys.path.insert(0, str(folder))
    try:
        import licensed

        random = np.random.default_rng(3)
        rows = flights(random, 2_000)
        X, y = pd.DataFrame(rows), lateness(random, rows)
        columns = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["carrier"]), remainder="passthrough"
        )
        model = make_pipeline(
            FunctionTransformer(licensed.same), columns, LogisticRegression(max_iter=1_000)
        ).fit(X[:1_500], y[:1_500])
        second = bascule.pack(
            model, name="late", train=(X[:1_500], y[:1_500]), test=(X[1_500:], y[1_500:]),
            to=folder / "second", code=[str(file)], measure=False,
        )  # fmt: skip
    finally:
        sys.path.remove(str(folder))
    return home_of(folder, packed(folder), second), flag


@pytest.fixture
def broken(tmp_path, request):
    """A copy of the home, whose late/2 is broken in one way."""
    home, flag = request.getfixturevalue("licensed" if request.param is raising else "compiled")
    shutil.copytree(home, tmp_path / "home")
    for path in (tmp_path / "home" / "objects").rglob("*"):
        path.chmod(0o755)
    request.param(open_registry(tmp_path / "home").path("late/2"), flag)
    yield tmp_path / "home"
    if flag:
        flag.unlink(missing_ok=True)


def removed(folder, flag):
    shutil.rmtree(folder)


def altered(folder, flag):
    next((folder / "programs").iterdir()).write_bytes(b"no program")


def rows_altered(folder, flag):
    file = max((folder / "data").iterdir(), key=lambda path: path.stat().st_size)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def without_manifest(folder, flag):
    (folder / "bundle.json").unlink()


def garbled(folder, flag):
    (folder / "bundle.json").write_bytes(b"\xff\x00{")


def raising(folder, flag):
    """Its own code raises at import: it opens, and cannot answer."""
    flag.touch()


@pytest.mark.parametrize(
    "broken",
    first_of([removed, raising, altered, rows_altered, without_manifest, garbled]),
    indirect=True,
)
def test_a_broken_version_is_named_with_its_error_and_the_others_are_reported(broken):
    name, bundle_of = versions_of("late", lambda: open_registry(broken))
    overview = look_at(broken, name, bundle_of, since=timedelta(days=30))
    assert "1" in [report.version for report in overview.drift.versions]
    assert {one.version for one in overview.performance.windows} >= {"1"}
    screen, page = repr(overview), html_of(document_of(overview))
    for text in (screen.replace("\n  ", " "), page):
        assert "version 2 is not compared: " in text or "version 2: its losses are not" in text
    drift = measure_production_drift(broken, name, bundle_of, since=timedelta(days=30))
    assert "version 2" in repr(drift)
    performance = measure_performance(broken, name, bundle_of=bundle_of)
    assert "version 2" in repr(performance)


@pytest.mark.parametrize("broken", [removed], indirect=True)
def test_a_model_without_any_version_that_opens_still_has_its_health(broken):
    registry = open_registry(broken)
    shutil.rmtree(registry.path("late/1"))
    name, bundle_of = versions_of("late", lambda: open_registry(broken))
    overview = look_at(broken, name, bundle_of, since=timedelta(days=30))
    assert overview.total.requests > 0
    assert overview.performance is None
    assert (
        "no version of late in the ledger can be measured: 1, 2; version 1 is not measured"
        in (overview.notes[0])
    )
