"""The application of Ray Serve takes the bundles that it names, and no others."""

from __future__ import annotations

import sys

import pytest
from tests.unit.registry.conftest import write_bundle
from tests.unit.ship.test_ship_targets import CANARY

from bascule.core import MissingExtra, NotFound, Untrusted
from bascule.ray import Arm, application, specs_of
from bascule.registry import open_registry
from bascule.ship import TARGETS


@pytest.fixture
def version(tmp_path, monkeypatch):
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BASCULE_SERVER", raising=False)
    return open_registry(tmp_path / "home").push(write_bundle(tmp_path / "late"), by="ada")


def test_a_replica_serves_the_bundle_of_the_registry(version):
    (spec,) = specs_of([Arm("current", "late/1", 100, version.digest)])
    assert (spec.model, spec.version, spec.is_planned) == ("late", "1", True)
    assert (spec.path / "bundle.json").is_file()


def test_a_bundle_with_another_digest_is_refused(version):
    with pytest.raises(Untrusted, match="the application names sha256:000"):
        specs_of([Arm("current", "late/1", 100, "sha256:" + "0" * 64)])
    with pytest.raises(NotFound):
        specs_of([Arm("current", "late/2", 100, version.digest)])


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra) as problem:
        application("late", [])
    assert problem.value.hint == "pip install 'ray[serve]'"


def test_the_rendered_application_names_every_arm_with_its_digest():
    app = TARGETS["ray"].render(CANARY)["app.py"]
    for arm in CANARY.arms:
        assert f'"{arm.model}/{arm.number}", {arm.share_percent},' in app
        assert arm.digest in app
