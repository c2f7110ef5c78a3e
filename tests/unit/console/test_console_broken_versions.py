"""Pages of a model one of whose bundles is removed, altered or unreadable."""

from __future__ import annotations

import shutil

import pytest
from markupsafe import escape
from tests.consoles import browsing, control
from tests.tiers import first_of

from bascule.app import open_registry
from bascule.bundle.disk import read_manifest
from bascule.core import BasculeError
from bascule.kinds import runner_of

PAGES = [
    "/", "/endpoints", "/endpoints/rain", "/models", "/models/rain", "/models/rain/2",
    "/models/rain/2/compare?with=1", "/models/rain/1/compare?with=2",
    "/models/rain/2/plots", "/try", "/try/rain",
    "/deploy?version=rain/2", "/monitoring", "/monitoring/rain", "/history",
]  # fmt: skip


def removed(folder):
    shutil.rmtree(folder)


def without_manifest(folder):
    (folder / "bundle.json").unlink()


def garbled(folder):
    (folder / "bundle.json").write_bytes(b"\xff\x00{")


def altered(folder):
    next((folder / "programs").iterdir()).write_bytes(b"no program")


def statements_garbled(folder):
    for file in (folder / "statements").iterdir():
        file.write_bytes(b"\xff{")


BREAKS = [removed, without_manifest, garbled, altered, statements_garbled]
FEW = first_of(BREAKS)


@pytest.fixture
def broken(settings, request):
    """The home, whose rain/2 is broken in one way."""
    objects = settings.home / "objects"
    folder = open_registry(settings).path("rain/2")
    for path in (objects, folder, *folder.rglob("*")):
        path.chmod(0o755)
    request.param(folder)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("broken", FEW, indirect=True)
def test_every_page_of_a_model_with_a_broken_version_is_there(pages):
    answers = {path: pages.get(path).status_code for path in PAGES}
    assert answers == dict.fromkeys(PAGES, 200)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("broken", FEW[:4], indirect=True)
def test_the_page_of_a_broken_version_says_what_is_wrong(pages, settings):
    with pytest.raises(BasculeError) as problem:
        read_manifest(open_registry(settings).path_to_look_at("rain/2"), verify=False)
    assert escape(str(problem.value)) in pages.get("/models/rain/2").text
    assert escape(str(problem.value)) in pages.get("/models/rain/2/compare?with=1").text


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("broken", [removed], indirect=True)
def test_the_plots_of_a_broken_version_are_a_sentence(settings, server):
    app = control(settings, server, jobs=runner_of(settings))
    with browsing(app) as browser:
        answer = browser.get("/models/rain/2/plots")
    assert answer.status_code == 200
    assert "Nothing can be drawn: " in answer.text
