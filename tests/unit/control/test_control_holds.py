"""What a running server holds, and what it does while there is no registry."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from bascule.control.loops.holds import _Holds
from bascule.core.errors import Conflict, NotFound, Unavailable


class Registry:
    """Keeps what is held and let go."""

    def __init__(self):
        self.held, self.released = [], []

    def hold(self, digests, holder, *, lasts_s):
        self.held.append(list(digests))

    def release(self, digests, holder):
        self.released.append(list(digests))


@pytest.fixture
def service(cancer_bundle):
    return SimpleNamespace(path=cancer_bundle)


def turns(*registries):
    """Opens one after the other, an error in place of one that is away; and ends with the last."""
    left = list(registries)

    def open_registry():
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    rounds = iter(range(10))  # a thread that goes on for ever ends here all the same
    return open_registry, lambda _: next(rounds) == 9 or not left


def test_bundles_are_held_once_there_is_a_registry(service, caplog):
    """None at first, as beside a server that was started before the first push."""
    registry = Registry()
    open_registry, wait = turns(NotFound("no registry"), NotFound("no registry"), registry)
    _Holds(lambda: [service], open_registry, 7).keep(wait)

    (held,) = registry.held
    assert len(held) == 1
    assert registry.released == [held], "at the end"
    assert caplog.text == "", "a server of folders needs no registry"


def test_a_registry_that_vanishes_is_opened_anew(service):
    gone, back = Registry(), Registry()

    def vanish(*_, **__):
        raise NotFound("no registry")

    gone.hold = vanish
    open_registry, wait = turns(gone, back)
    _Holds(lambda: [service], open_registry, 7).keep(wait)
    assert (len(back.held), gone.released, back.released) == (1, [], back.held)


def test_a_registry_that_is_away_is_logged_once_until_it_was_back(service, caplog):
    away = Unavailable("the catalogue is away")
    registry = Registry()
    registry.hold = lambda *_, **__: lost.pop(0)()
    lost = [lambda: None, lambda: 1 / 0, lambda: 1 / 0, lambda: None]
    open_registry, _ = turns(away, away, registry)
    holds = _Holds(lambda: [service], open_registry, 7)
    rounds = iter(range(5))
    with caplog.at_level(logging.WARNING):
        holds.keep(lambda _: next(rounds) == 4)
    assert caplog.text.count("are not held by the registry: the catalogue is away") == 1
    assert caplog.text.count("are not held by the registry: division by zero") == 1


def test_a_folder_that_was_deleted_keeps_no_other_from_being_held(service, tmp_path):
    registry = Registry()
    open_registry, wait = turns(registry)
    deleted = SimpleNamespace(path=tmp_path / "deleted")
    _Holds(lambda: [deleted, service], open_registry, 7).keep(wait)
    assert len(registry.held[0]) == 1


@pytest.mark.parametrize("problem", [Conflict("it is being removed"), Unavailable("away")])
def test_a_version_that_cannot_be_held_is_not_loaded(service, problem):
    def refuse():
        raise problem

    with pytest.raises(type(problem)):
        _Holds(list, refuse, 7).take(service)
