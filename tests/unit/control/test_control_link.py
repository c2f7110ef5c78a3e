"""The server that the control API speaks of, and references to versions."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bascule.control.link import ServerLink
from bascule.control.references import aliased, spec_of, version_of
from bascule.core.errors import NotFound
from bascule.serving import ModelSpec
from bascule.serving.specs import loaded, without
from bascule.serving.telemetry.counters import Counters

GB, LATE = (ModelSpec(name, "1", Path("/bundles", name)) for name in ("gb", "late"))


class Peer:
    """A supervisor whose list another one changes before the first change arrives."""

    def __init__(self, *services, meanwhile=None):
        self.services = services
        self.meanwhile = meanwhile

    def ask(self, what, within_s, **said):
        if what == "plans":
            return []
        if what == "services":
            return [one.to_json() for one in self.services]
        left_s = said["turn_by_s"] - time.monotonic()
        assert 0 < left_s < within_s - 15, "what is left is for the workers' turn and the answer"
        if self.meanwhile is not None:
            self.services, self.meanwhile = self.meanwhile, None
        before, after = (
            tuple(map(ModelSpec.from_json, said[which])) for which in ("before", "after")
        )
        if before != self.services:
            return False
        self.services = after
        return True


def server_of(peer):
    return ServerLink(None, peer)


def test_a_change_is_made_of_what_is_served():
    peer = Peer(GB)
    assert server_of(peer).change(lambda now: loaded(now, LATE)) == (GB, LATE)
    assert peer.services == (GB, LATE)


def test_a_change_does_not_overwrite_another_one():
    peer = Peer(GB, meanwhile=())
    assert server_of(peer).change(lambda now: loaded(now, LATE)) == (LATE,)


def test_a_change_that_cannot_be_made_any_more_is_refused_and_changes_nothing():
    peer = Peer(GB, meanwhile=(LATE,))
    with pytest.raises(NotFound, match="'gb' is not served"):
        server_of(peer).change(lambda now: without(now, "gb"))
    assert peer.services == (LATE,)


def test_without_a_server_nothing_is_served_and_nothing_can_be_changed(tmp_path):
    server = ServerLink(Counters(tmp_path / "counters", workers=0))
    assert (server.services, server.statuses(), server.models()) == ((), [], [])
    assert len(server.labels) == len(server.totals()) == 1
    for ask in (lambda: server.address, lambda: server.change(lambda now: now)):
        with pytest.raises(NotFound, match="no server runs beside"):
            ask()


def registry_of(**models):
    found = [
        SimpleNamespace(name=name, aliases=dict.fromkeys(aliases))
        for name, aliases in models.items()
    ]
    return lambda: SimpleNamespace(models=lambda: found)


def test_production_goes_before_champion_and_a_model_without_either_is_left_out():
    registry = registry_of(a=["champion", "production"], b=["champion"], c=["staging"], d=[])
    assert aliased(registry) == ["a@production", "b@champion"]


def test_a_registry_that_was_never_written_to_names_nothing():
    def registry():
        raise NotFound("no registry")

    assert aliased(registry) == []


@pytest.mark.parametrize(
    ("digest", "version"),
    [
        ("sha256:fde00d2" + "9" * 57, str(0xFDE00D2)),
        ("sha256:fffffff" + "0" * 57, str(2**28 - 1)),
        ("sha256:0000001" + "f" * 57, "1"),
    ],
)
def test_the_version_of_a_folder_is_a_number_from_the_start_of_its_digest(digest, version):
    assert version_of(digest) == version


@pytest.mark.parametrize(
    ("reference", "labels"), [("late@champion", ("champion",)), ("late/2", ()), ("late", ())]
)
def test_the_alias_that_names_a_version_is_its_label(reference, labels):
    found = SimpleNamespace(model="late", number=2, deprecated=None)
    registry = SimpleNamespace(resolve=lambda _: found, path=lambda _: Path("/bundles/late"))
    spec = spec_of(reference, lambda: registry)

    assert (spec.version, spec.labels) == ("2", labels)
    assert ModelSpec.from_json(spec.to_json()).labels == labels
    assert spec == ModelSpec("late", "2", Path("/bundles/late"))
