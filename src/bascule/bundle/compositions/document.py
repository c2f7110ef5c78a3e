"""What a composition says: parts, how columns reach them, and what is answered.

People write it in TOML, where `parts` and `outputs` are tables by name; a bundle keeps JSON, where
both are lists, because their order counts. Both are read here, and unknown keys are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from bascule.core import Invalid

MAX_PARTS = 16
_MAX_ROWS = 1_000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_KEYS_OF = {
    "model": ("inputs",), "ensemble": ("how", "weights"), "router": (), "rules": ("examples",),
}  # fmt: skip

Value = str | bool | int | float
Text = Annotated[str, msgspec.Meta(max_length=1_000)]
"""An expression; see `expressions`."""


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Formula(_Struct, frozen=True):
    """In place of a constant: the value of an expression."""

    value: Text


class Row(_Struct, frozen=True):
    """A row of a rule table (`then`) or of a router (`part`): what is given where `when` holds."""

    when: Text = ""
    then: dict[str, Value | Formula] = {}
    part: str = ""


class Example(_Struct, frozen=True):
    """Of a rule table: values by reference, the others missing, and what it must give then."""

    given: dict[str, Value]
    then: dict[str, Value]


class Part(_Struct, frozen=True):
    """One node of the graph; exactly one of `model`, `ensemble`, `router` and `rules` is set.

    Attributes:
        model: A bundle: in TOML a reference or folder, in a bundle the model's name.
        digest: Of that bundle, and
        program: the one of it that runs: set where the composition is packed.
        inputs: By input of the model, the expression that gives it; else the column of its name.
        ensemble: Parts, whose answers are put together, `how`, and with which `weights`.
        router: The first row that holds names the part that answers.
        rules: The first row that holds gives the outputs.
    """

    name: str
    model: str = ""
    digest: str = ""
    program: str = ""
    inputs: dict[str, Text] = {}
    ensemble: list[str] = []
    how: Literal["", "mean", "vote"] = ""
    weights: list[float] = []
    router: list[Row] = []
    rules: list[Row] = []
    examples: list[Example] = []


class Output(_Struct, frozen=True):
    """An output of the composition."""

    name: str
    value: Text


class Document(_Struct, frozen=True):
    """A composition. Without `outputs`, it answers what the last part does.

    `inputs`: types of columns of the request that no model reads, but an expression does.
    """

    parts: list[Part]
    outputs: list[Output] = []
    inputs: dict[str, str] = {}


def wrong(said: str) -> Invalid:
    """The error for what no composition may say."""
    return Invalid(said, hint="docs/how-to/compose-models.md tells what it may say")


def read_document(value: Any) -> Document:
    """The composition that TOML or JSON holds. Raises `Invalid`, which names the place."""
    made = dict(value) if isinstance(value, Mapping) else {"parts": value}
    for key, inner in (("parts", ""), ("outputs", "value")):
        if isinstance(named := made.get(key), Mapping):
            made[key] = [
                {"name": name, **({inner: said} if inner else said)}
                if inner or isinstance(said, Mapping)
                else said
                for name, said in named.items()
            ]
    try:
        document = msgspec.convert(made, Document)
    except msgspec.ValidationError as problem:
        said = str(problem).replace("$.", "")
        if found := re.search(r"`parts\[(\d+)\]", said):
            part = made["parts"][int(found[1])]
            said = said.replace(found[0], f"`parts.{dict(part).get('name')}")
        raise wrong(f"this is no composition: {said}") from None
    names = [part.name for part in document.parts]
    if not 1 <= len(names) <= MAX_PARTS:
        raise wrong(f"parts: there are {len(names)}, and a composition has 1 to {MAX_PARTS}")
    for part in document.parts:
        if not _NAME.fullmatch(part.name) or names.count(part.name) > 1:
            raise Invalid(
                f"parts.{part.name}: no name of a part, or that of two",
                hint="write up to 31 small letters, digits and _, a letter first",
            )
        _check_part(part, f"parts.{part.name}")
    return document


def _check_part(part: Part, at: str) -> None:
    kinds = [kind for kind in _KEYS_OF if getattr(part, kind)]
    if len(kinds) != 1:
        said = " and ".join(kinds) or "none"
        raise wrong(f"{at}: a part has one of {', '.join(_KEYS_OF)}, and this one {said}")
    for kind, keys in _KEYS_OF.items():
        for key in keys:
            if getattr(part, key) and kind not in kinds:
                raise wrong(f"{at}.{key}: is of a part with {kind}, and this one has {kinds[0]}")
    count, weights = len(part.ensemble), part.weights
    if count == 1 or (weights and (len(weights) != count or min(weights) < 0 or not sum(weights))):
        raise wrong(f"{at}: an ensemble has two parts or more, each with a weight of 0 or more")
    rows = part.router or part.rules
    if len(rows) > _MAX_ROWS:
        raise wrong(f"{at}.{kinds[0]}: has {len(rows):,} rows, and {_MAX_ROWS:,} may be")
    for place, row in enumerate(rows, 1):
        if (place == len(rows)) == bool(row.when):
            raise Invalid(
                f"{at}.{kinds[0]}[{place}]: the last row, and no other, has no `when`",
                hint="so that every row of a request has an answer",
            )
