"""Names and references: what people type."""

import pytest
from hypothesis import given, strategies as st

from bascule.core.errors import Invalid
from bascule.core.names import Reference, check_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("late", Reference("late")),
        ("late/3", Reference("late", number=3)),
        ("late@champion", Reference("late", alias="champion")),
        ("v1.2_x-y", Reference("v1.2_x-y")),
        ("late/2147483647", Reference("late", number=2**31 - 1)),
    ],
)
def test_a_reference_is_parsed_and_written_back_as_it_was(text, expected):
    assert Reference.parse(text) == expected
    assert str(Reference.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "late/", "late/0", "late/-1", "late/x", "late/1/2", "late/2147483648", "late/\u0661",
     "late@", "late@a/b", "a b", "-late", "late.", "../late", "a..b", "x" * 129, "naïve"],
)  # fmt: skip
def test_what_is_no_reference_is_refused_with_the_way_to_write_one(text):
    with pytest.raises(Invalid) as caught:
        Reference.parse(text)
    assert caught.value.hint


def test_a_name_may_have_128_characters_and_not_129():
    assert check_name("x" * 128) == "x" * 128
    with pytest.raises(Invalid):
        check_name("x" * 129)


@given(st.text(max_size=40))
def test_an_accepted_name_is_safe_in_a_path_and_in_a_url(text):
    try:
        name = check_name(text)
    except Invalid:
        return
    assert "/" not in name
    assert ".." not in name
    assert name.isascii()
    assert name == name.strip(". ")
