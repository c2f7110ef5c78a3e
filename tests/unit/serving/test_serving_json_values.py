"""Bodies of JSON: what is read beyond JSON, what is refused, and in which words."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st
from tests.tiers import first_of

from bascule.core.errors import Invalid, TooLarge
from bascule.serving.codecs import json_values
from bascule.serving.codecs.json_values import MAX_VALUES, JsonParser

EXAMPLE = '{"rows": [...]}'


def plain(body):
    return JsonParser(EXAMPLE).plain(body)


def refusal(body):
    with pytest.raises(Invalid) as refused:
        plain(body)
    return refused.value


# -- what JSON has no word for --

TEXTS = st.text(st.sampled_from('NaN"\\ ,:[]é9'), max_size=8)
WITH_NAN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXTS | st.just(float("nan")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
)


@given(WITH_NAN, st.booleans())
def test_nan_is_null_and_texts_that_say_nan_are_as_they_were(value, is_ascii):
    body = json.dumps(value, ensure_ascii=is_ascii)

    assert plain(body.encode()) == json.loads(body, parse_constant=lambda _: None)


def test_a_long_body_with_nan_is_read_in_one_go():
    """The time is that of the length, also where a text has no end."""
    rows = [[0.5, "a \\ N", float("nan")]] * 30_000
    assert plain(json.dumps(rows).encode()) == [[0.5, "a \\ N", None]] * 30_000
    refusal(b'["' + b'\\"' * 600_000 + b"NaN")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", 2.0**64),
        ("-9223372036854775808", -(2**63)),
        ("-9223372036854775809", -(2.0**63)),
        ("1" + "0" * 300, 1e300),
        ("1.2345678901234567890123", 1.2345678901234567),
        ("1234567890123456789012.5", 1234567890123456789012.5),
        ("1234567890123456789012e3", 1234567890123456789012e3),
        ('"12345678901234567890123"', "12345678901234567890123"),
    ],
)
def test_a_whole_number_over_64_bits_is_the_nearest_float(written, read):
    made = plain(f"[NaN, 123456789012345678901234567890, {written}]".encode())
    assert (made[2], type(made[2])) == (read, type(read))


# -- keys --


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"a":1,"a":1}', "the body: 'a' is given twice"),
        (b'{"a":1,"\\u0061":1}', "the body: 'a' is given twice"),
        (b'{"a":1,"a":NaN}', "the body: 'a' is given twice"),
        (b'{"a":1,"a":12345678901234567890123}', "the body: 'a' is given twice"),
        (b'{"p":{"b":1,"c":2,"b":3}}', "p: 'b' is given twice"),
        (b'{"r":[{"b":1},{"b":1,"b":2}]}', "r[1]: 'b' is given twice"),
        (b'{"r":[{"b":1},5,null,{"b":1,"b":2}]}', "r[3]: 'b' is given twice"),
        (b'[{"b":1},{"b":1,"b":2}]', "rows[1]: 'b' is given twice"),
        (b'{"r":[{"x":{"b64":"A","b64":"B"}}]}', "r[0].x: 'b64' is given twice"),
        (b'{"r":[{"x":{"b64":"A","\\u006264":"B"}}]}', "r[0].x: 'b64' is given twice"),
        (b'{"r":[{"x":5,"y":"{:"},{"x":{"b64":"A","b64":""}}]}', "r[1].x: 'b64' is given twice"),
        (b'{"r":[[1,{"b64":"A"}],[1,{"b64":"A","b64":"B"}]]}', "r[1][1]: 'b64' is given twice"),
        (b'{"r":["a",{"b64":"A","b64":"B"}]}', "r[1]: 'b64' is given twice"),
        (b'{"r":{"x":["a",{"b64":"A","b64":"B"}]}}', "r.x[1]: 'b64' is given twice"),
        (b'{"r":{"x":{"y":{"z":{},"z":1}}}}', "r.x.y: 'z' is given twice"),
        (b'{"r":{"x":{"z":{},"z":{}}},"{":"{:"}', "r.x: 'z' is given twice"),
        (b'[{"x":[[{"b64":"A","b64":"B"}]]}]', "rows[0].x[0][0]: 'b64' is given twice"),
        (b'[5,{"b64":"A","b64":"B"}]', "rows[1]: 'b64' is given twice"),
        (b'{"r":%b{"z":1,"z":1}%b}' % (b"[" * 900, b"]" * 900), "r%s: 'z' is" % ("[0]" * 900)),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_its_place(body, told):
    refused = refusal(body)
    assert refused.message.startswith(told)
    assert refused.hint == "send every key once"


class Pairs(list):
    """An object: its keys and values, of which some may be twice."""


KEYS = st.sampled_from(["a", "b64", "{", ":"])
VALUES = st.recursive(
    st.sampled_from([1, None, "", "{", ":", "a{:b", '"a":1']),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner), max_size=3).map(Pairs)
    ),
    max_leaves=12,
)


def written(value):
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(key)}:{written(inner)}" for key, inner in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


def has_twice(value):
    if isinstance(value, Pairs):
        keys = [key for key, _ in value]
        return len(set(keys)) < len(keys) or any(has_twice(inner) for _, inner in value)
    return isinstance(value, list) and any(map(has_twice, value))


@given(st.lists(st.tuples(KEYS, VALUES), max_size=3).map(Pairs) | st.lists(VALUES, max_size=3))
def test_a_body_is_refused_for_a_key_that_is_twice_in_an_object_of_it_and_only_then(value):
    body = written(value).encode()
    if has_twice(value):
        assert "is given twice" in refusal(body).message
    else:
        assert plain(body) == json.loads(body)


def test_bodies_without_objects_in_values_and_with_all_their_keys_are_not_looked_through(
    monkeypatch,
):
    monkeypatch.setattr(json_values, "_check_below", None)
    assert plain(b'{"r":[{"x":"10:30"},{"x":"a"}],"p":{"q":"::"}}')["p"] == {"q": "::"}
    assert plain(b'[{"x":"10:30"},{"x":"a"}]')[0] == {"x": "10:30"}
    assert plain(b'{"r":[{"x":{"b64":"A"}},{"x":[[{"b64":"B"}]]}]}')["r"][0] == {"x": {"b64": "A"}}
    assert plain(b'[{"x":{"b64":"A"}}]') == [{"x": {"b64": "A"}}]


def test_a_body_of_very_many_objects_is_not_looked_through():
    many = {str(number): {} for number in range(200_000)}
    assert plain(json.dumps(many).encode()) == many


# -- what is no JSON --


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "the body is empty"),
        (b" \r\n", "the body is empty"),
        (
            b"1,2,3\n4,5,6\n",
            "the body is not JSON: ',2,3\\n4,5,6\\n' at byte 1 is not what can stand",
        ),
        (b"hour,wind\n1,2\n", "the body is not JSON: 'hour,wind\\n1,2\\n' at byte 0 is not"),
        ('{"é": 1 2}'.encode(), "the body is not JSON: '2}' at byte 9 is not what can stand there"),
        (b'\xef\xbb\xbf{"a": x}', "the body is not JSON: 'x}' at byte 9 is not"),
        (b"'a'", "the body is not JSON: \"'a'\" at byte 0"),
        (b"[1,", "the body is not JSON: it ends after 3 bytes, and is not complete"),
        (b'{"a": 1 \n', "the body is not JSON: it ends after 9 bytes"),
        (b'["a', "the body is not JSON: '\"a' at byte 1"),
        (b"[01]", "the body is not JSON: '1]' at byte 2"),
        (b'["\xff"]', "the body is not JSON: byte 2 is not UTF-8"),
        (b'["a\nb"]', "the body is not JSON: '\\nb\"]' at byte 3"),
        (b'["\\ud800"]', "the body is not JSON: a text in it has an escape that stands for no"),
        (b"[1e400]", "the body is not JSON: the number 1e400 is too large"),
        (b"[%b]" % (b"9" * 5_000), "the body is not JSON: the number 99999999999999999999"),
        (b"[-NaN]", "the body is not JSON: '-NaN]' at byte 1"),
        (b"[" * 2_000, "the body is not JSON: it is nested too deeply"),
        (b"[" * 2_000 + b"]" * 2_000, "the body is not JSON: it is nested too deeply"),
        (b"[" + b"1, " * 400_000, "the body is not JSON: it is cut off, or malformed"),
    ],
)
def test_what_is_no_json_is_said_with_its_place_and_what_is_expected(body, told):
    refused = refusal(body)

    assert refused.message.startswith(told)
    if "the number" in told:
        assert refused.hint == "send null for a missing number, and numbers below 1.8e308"
    else:
        assert refused.hint == f"send JSON, for example {EXAMPLE}"


@given(st.binary(max_size=60) | st.text('[]{}",:1eN.\\ anulINFity-', max_size=40).map(str.encode))
def test_a_refusal_never_speaks_the_words_of_the_parser(body):
    with suppress(Invalid):
        plain(body)
        return
    message = refusal(body).message
    assert message.startswith(("the body is", "the body:", "rows["))
    assert "ERROR" not in message
    assert "it cannot be read" not in message


@pytest.mark.parametrize(
    "piece", first_of([b"1,", b"[],", b"{},", b'{"a":1},', b'"ab",', b"null,"])
)
@pytest.mark.parametrize("count", first_of([33_000_000, 1 << 24]))
def test_a_list_of_more_elements_than_simdjson_counts_is_refused_unmade(piece, count):
    """pysimdjson 7.0.2 writes what is over 0xFFFFFF elements beyond the end of the list."""
    body = b"[" + piece * min(count, (64 << 20) // len(piece)) + b"1]"
    with pytest.raises(TooLarge, match="the body has over 2097152 values"):
        JsonParser("[]").plain(body)


def test_a_list_of_as_many_elements_as_there_may_be_is_read():
    body = b"[" + b"1," * (MAX_VALUES - 2) + b"1]"
    assert len(JsonParser("[]").plain(body)) == MAX_VALUES - 1
    with pytest.raises(TooLarge):
        JsonParser("[]").plain(b"[1," + body[1:])
