"""What tests of running servers share: a home with the versions that a module has trained."""

import pytest


@pytest.fixture
def home(trained, tmp_path):
    """The home of a registry with each bundle of `trained`, in their order."""
    from bascule.registry import open_registry

    registry = open_registry(tmp_path / "home")
    for path in trained:
        registry.push(path, by="ada")
    return tmp_path / "home"


@pytest.fixture
def started(serve, home):
    """`started("gb")`: a server of the home, which ends with the test."""

    def start(*words, **more):
        return serve(*words, env={"BASCULE_HOME": str(home)}, **more)

    return start
