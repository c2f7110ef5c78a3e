"""The kinds of error, and the tables that must know all of them."""

import pickle

import pytest

from bascule.cli import EXIT_CODES
from bascule.core.errors import KINDS, BasculeError, NotFound, Untrusted
from bascule.serving.transports.statuses import STATUS_OF, status_of


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_survives_the_way_between_processes(kind):
    error = kind("no model 'gbm'", hint="bascule models", model="gbm", tried=3)

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is kind
    assert (copy.message, copy.hint, copy.facts) == (error.message, error.hint, error.facts)
    assert str(copy) == "no model 'gbm'"


@pytest.mark.parametrize("table", [STATUS_OF, EXIT_CODES], ids=["http", "command line"])
def test_every_kind_is_in_every_table(table):
    assert set(table) == set(KINDS)


def test_every_subclass_is_listed_as_a_kind_or_derives_from_one():
    for kind in BasculeError.__subclasses__():
        if kind.__module__ == "bascule_client.errors":
            assert kind in KINDS


def test_a_subclass_has_the_status_of_its_kind():
    class DigestMismatch(Untrusted):
        pass

    assert status_of(DigestMismatch("x")) == STATUS_OF[Untrusted]


def test_an_unknown_kind_is_a_server_error_and_not_a_success():
    class Strange(BasculeError):
        pass

    assert status_of(Strange("x")) == 500
    assert status_of(NotFound("x")) == 404
