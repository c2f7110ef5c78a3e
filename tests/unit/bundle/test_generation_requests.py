"""Requests for texts: every field is checked, and an error names the field that is wrong."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from tests.language_models import asking

from bascule.bundle.generation import Chunk, joined, parse_request
from bascule.bundle.generation.chunks import TextCutter, Usage, calls_in, with_calls
from bascule.core import Invalid

TOOL = {"type": "function", "function": {"name": "f"}}
FIELDS = (
    "messages", "prompt", "max_tokens", "temperature", "top_p", "stop", "seed", "tools",
    "tool_choice", "response_format", "logprobs", "top_logprobs", "logit_bias",
)  # fmt: skip
anything: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "function", "name", "json_schema"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.text() | st.dictionaries(st.sampled_from(FIELDS), anything).map(json.dumps))
def test_any_text_is_a_request_or_is_refused_with_a_field(said):
    try:
        request = parse_request(said)
    except Invalid as refused:
        assert refused.facts["field"]  # noqa: PT017 -- either is right
    else:
        assert (request.messages is None) != (request.prompt is None)
        assert all(isinstance(message.text, str) for message in request.messages or ())
        assert request.schema is None or isinstance(request.schema, dict)
        assert isinstance(request.forced, tuple)


def test_half_a_surrogate_pair_is_refused():
    for said in ("\ud800", r'{"prompt": "\ud800"}'):
        with pytest.raises(Invalid, match="request: is"):
            parse_request(said)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_request_or_are_refused(said):
    try:
        parse_request(said)
    except Invalid as refused:
        assert refused.facts["field"]  # noqa: PT017 -- either is right


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"seed": 1 << 70}, "seed"),
        ({"logit_bias": {"token": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"function": {"name": "g"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"n": 2}, "n"),
        ({"prompt": "and messages"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(fields, field):
    with pytest.raises(Invalid) as refused:
        parse_request(asking("x", **fields))
    assert refused.value.facts["field"].partition("[")[0] == field
    assert refused.value.message.startswith(field)


def test_the_text_of_a_message_is_that_of_its_parts_refusals_included():
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    request = parse_request(json.dumps({"messages": [{"role": "assistant", "content": parts}]}))
    assert request.messages[0].text == "ab"


def test_fields_about_the_caller_change_nothing():
    named = asking("x", user="ada", store=False, safety_identifier="a")
    assert parse_request(named) == parse_request("x")


def test_defaults_fill_only_what_is_not_given():
    defaults = {"temperature": 0.5, "max_tokens": 9}
    assert parse_request("x", defaults).most_tokens == 9
    assert parse_request(asking("x", max_completion_tokens=3), defaults).most_tokens == 3
    assert parse_request(asking("x", temperature=0, max_tokens=None), defaults).temperature == 0


@given(st.text(), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.data())
def test_a_text_is_cut_at_its_first_stop_wherever_its_bytes_are_parted(text, stops, data):
    said, cutter, is_stopped = "", TextCutter(stops), False
    left = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
    whole = left.decode()
    while left and not is_stopped:
        size = data.draw(st.integers(1, len(left)))
        piece, is_stopped = cutter.add(left[:size])
        said, left = said + piece, left[size:]
        assert all(stop not in said for stop in stops)
    if not is_stopped:
        said += cutter.rest()
    ends = [at for stop in stops if (at := whole.find(stop)) >= 0]
    assert is_stopped == bool(ends)
    assert whole.startswith(said)
    if not ends:
        assert said == whole


def chunks_of(text, size=3):
    pieces = [text[at : at + size] for at in range(0, len(text), size)] or [""]
    last = Chunk(pieces[-1], finish="stop", usage=Usage(1, 2, 0))
    return [*map(Chunk, pieces[:-1]), last]


def test_calls_of_tools_are_told_as_such_and_other_texts_as_they_come():
    two = (
        '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>\n'
        '<tool_call>{"name": "g", "arguments": {}}</tool_call>'
    )
    said = joined(with_calls(chunks_of(two), is_forced=False))
    assert [call["function"]["name"] for call in said.tool_calls] == ["f", "g"]
    assert [call["index"] for call in said.tool_calls] == [0, 1]
    assert said.finish == "tool_calls"
    assert said.usage == Usage(1, 2, 0)
    assert len({call["id"] for call in said.tool_calls}) == 2
    text = "<tools are> fine"
    assert [*with_calls(chunks_of(text), is_forced=False)] == chunks_of(text)


@given(st.text().map(lambda text: f"<tool_call>{text}"))
def test_what_begins_as_a_call_and_is_none_stays_a_text(text):
    if not [*calls_in(text)]:
        assert joined(with_calls(chunks_of(text), is_forced=False)).text == text


def test_the_last_chunk_alone_has_an_end_and_costs():
    whole = joined([Chunk("a"), Chunk("b", finish="length", usage=Usage(3, 2, 1))])
    assert msgspec.to_builtins(whole) == {
        "text": "ab", "finish": "length",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1},
    }  # fmt: skip


def test_pieces_of_a_call_are_put_together_in_whatever_piece_its_name_comes():
    pieces = ({"function": {"arguments": "{"}}, {"id": "c", "function": {"name": "f"}},
              {"function": {"arguments": "}"}})  # fmt: skip
    (call,) = joined([Chunk(tool_calls=[piece]) for piece in pieces]).tool_calls
    assert (call["id"], call["type"]) == ("c", "function")
    assert call["function"] == {"name": "f", "arguments": "{}"}
