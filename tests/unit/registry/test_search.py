from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from bascule.core.errors import Invalid
from bascule.registry.search import Term, parse_search

NOW = datetime(2026, 3, 8, 12, tzinfo=UTC)


def read(text: str) -> tuple[Term, ...]:
    return parse_search(text, now=NOW)


@pytest.mark.parametrize(
    "text",
    [
        "metric.roc_auc >= 0.8 tag.team=risk",
        "metric.roc_auc>=0.8 and tag.team = risk",
        "  METRIC.roc_auc >=0.8   AND   tag.team= 'risk' ",
    ],
)
def test_terms_are_read_however_they_are_spaced(text):
    assert read(text) == (
        Term("metric", "roc_auc", ">=", 0.8),
        Term("tag", "team", "=", "risk"),
    )


def test_values_with_spaces_stand_in_quotes():
    assert read('tag.owner = "risk office" by = ada') == (
        Term("tag", "owner", "=", "risk office"),
        Term("by", "", "=", "ada"),
    )


def test_a_name_alone_asks_that_it_is_there():
    assert read("tag.audited metric.roc_auc[month=1]") == (
        Term("tag", "audited", "has", None),
        Term("metric", "roc_auc[month=1]", "has", None),
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T12:00", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01T12:00+02:00", datetime(2026, 3, 1, 10, tzinfo=UTC)),
        ("7d", NOW - timedelta(days=7)),
        ("90m", NOW - timedelta(minutes=90)),
    ],
)
def test_times_are_dates_moments_or_how_long_ago(written, meant):
    assert read(f"pushed >= {written}") == (Term("pushed", "", ">=", meant),)


def test_no_terms_ask_for_nothing():
    assert read("") == read("  ") == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("metrc.auc >= 1", "did you mean 'metric'"),
        ("metric >= 1", "write metric.NAME"),
        ("model.late = 1", "write model"),
        ("metric.auc >= high", "'high' is not a number"),
        ("metric.auc >= nan", "'nan' is not a number"),
        ("tag.team >= risk", "tag cannot be compared so"),
        ("model", "model cannot be compared so"),
        ("pushed = 2026-03-01", "pushed cannot be compared so"),
        ("pushed >= yesterday", "'yesterday' is not a time"),
        ("pushed >= 999999d", "is not a time"),
        ("gates = good", "'good' is none of passed, failed, unchecked"),
        ("digest = xyz", "not the beginning of a digest"),
        ("digest = abc", "not the beginning of a digest"),
        ("tag.a = 'open", "cannot be read"),
        ("; DROP TABLE versions", "cannot be read"),
    ],
)
def test_a_term_that_cannot_be_meant_is_quoted_with_what_can_be(text, told):
    with pytest.raises(Invalid) as caught:
        read(text)
    assert told in caught.value.message
    assert caught.value.hint


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    with suppress(Invalid):
        assert all(isinstance(term, Term) for term in read(text))
