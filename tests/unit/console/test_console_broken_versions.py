"""Pages of a model one of whose bundles is removed, altered or unreadable."""

from __future__ import annotations

import shutil

import pytest

from bascule.app import open_registry

PAGES = [
    "/", "/endpoints", "/endpoints/rain", "/models", "/models/rain", "/models/rain/2",
    "/models/rain/2?with=1", "/models/rain/1?with=2", "/models/rain/2/plots", "/try", "/try/rain",
    "/deploy?version=rain/2", "/monitoring", "/monitoring/rain", "/history", "/changes",
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


@pytest.fixture
def broken(settings, request):
    """The home, whose rain/2 is broken in one way."""
    objects = settings.home / "objects"
    folder = open_registry(settings).path("rain/2")
    for path in (objects, folder, *folder.rglob("*")):
        path.chmod(0o755)
    request.param(folder)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("broken", BREAKS, indirect=True)
def test_every_page_of_a_model_with_a_broken_version_is_there(pages):
    answers = {path: pages.get(path).status_code for path in PAGES}
    assert answers == dict.fromkeys(PAGES, 200)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("broken", BREAKS[:4], indirect=True)
def test_the_page_of_a_broken_version_says_what_is_wrong(pages):
    page = pages.get("/models/rain/2").text
    assert any(words in page for words in ("missing", "manifest", "sealed", "bytes"))
    assert 'role="alert"' in page
