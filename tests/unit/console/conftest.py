import shutil

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from tests.consoles import CountedServer, browsing, control

from bascule.app import open_registry, open_rollouts
from bascule.release.rollouts import RolloutRequest
from bascule.settings import load_settings


@pytest.fixture(scope="session")
def rain_bundles(packed):
    """Three versions of a small regression."""
    X = np.arange(40.0).reshape(20, 2)
    return [
        packed("rain", LinearRegression(positive=positive, fit_intercept=fit).fit(X, X[:, 0]), X,
               (X, X[:, 0]))
        for positive, fit in ((False, True), (False, False), (True, True))
    ]  # fmt: skip


@pytest.fixture(scope="session")
def rain_home(rain_bundles, tmp_path_factory):
    """A home with three versions of `rain`; version 1 is the champion and answers `rain`."""
    folder = tmp_path_factory.mktemp("rain")
    made = load_settings(folder, {"BASCULE_HOME": str(folder / "home")})
    registry = open_registry(made)
    for path in rain_bundles:
        registry.push(path, by="ada")
    registry.set_alias("rain", "champion", 1, by="ada")
    open_rollouts(made).deploy(
        RolloutRequest(version="rain/1", strategy="all", reason="the first"), by="ada"
    )
    return folder / "home"


@pytest.fixture
def settings(rain_home, tmp_path):
    """Of a copy of that home."""
    shutil.copytree(rain_home, tmp_path / "home")
    return load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})


@pytest.fixture
def server(settings):
    return CountedServer(settings)


@pytest.fixture
def pages(settings, server):
    """A browser on the machine of the server."""
    with browsing(control(settings, server)) as client:
        yield client
