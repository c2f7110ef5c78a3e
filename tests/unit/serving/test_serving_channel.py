from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from bascule.core import error_from_json, error_to_json
from bascule.core.errors import KINDS, Invalid, ModelFailed, Unavailable
from bascule.serving.transports.statuses import STATUS_OF, error_of
from bascule.serving.workers.peer import Lines


@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=20), max_size=3), max_size=5),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_messages_arrive_whole_however_they_were_cut(messages, cuts):
    data = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    lines, found, start = Lines(), [], 0
    for end in ends:
        found += lines.feed(data[start:end])
        start = end
    assert found == messages


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_a_worker_is_raised_as_what_it_was(kind):
    error = error_from_json(json.loads(json.dumps(error_to_json(kind("no", hint="do this")))))
    assert (type(error), error.message, error.hint) == (kind, "no", "do this")


def test_an_error_of_an_unknown_kind_is_told_all_the_same():
    error = error_from_json({"error": "odd", "kind": "Newer"})
    assert (type(error), error.message) == (Unavailable, "odd")


@pytest.mark.parametrize("status", sorted(set(STATUS_OF.values())))
def test_what_a_server_answered_is_an_error_of_that_status(status):
    assert STATUS_OF[type(error_of(status, "no"))] == status


@pytest.mark.parametrize(("status", "kind"), [(405, Invalid), (418, Invalid), (502, ModelFailed)])
def test_a_status_of_no_kind_is_the_callers_fault_or_the_servers(status, kind):
    assert type(error_of(status, "no")) is kind
