"""Digests: equal values, equal bytes."""

import hashlib

import pytest
from hypothesis import given, strategies as st

from bascule.core.digests import canonical_json, sha256_bytes, sha256_file

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=4
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=5))
def test_the_order_of_keys_does_not_change_the_bytes(value):
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(backwards)


def test_canonical_json_is_pinned():
    value = {"b": [1, 2.5, None], "a": "é", "c": {"z": True, "y": ""}}
    assert canonical_json(value) == '{"a":"é","b":[1,2.5,null],"c":{"y":"","z":true}}'.encode()


def test_a_number_that_json_cannot_say_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("nan")})


def test_a_file_has_the_digest_of_its_bytes(tmp_path):
    data = b"x" * (3 << 20)
    (tmp_path / "file").write_bytes(data)
    expected = "sha256:" + hashlib.sha256(data).hexdigest()
    assert sha256_file(tmp_path / "file") == sha256_bytes(data) == expected
