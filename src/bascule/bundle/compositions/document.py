"""What a composition says: parts, how columns reach them, and what is answered.

People write it in TOML, where `parts` and `outputs` are tables by name; a bundle keeps JSON, where
both are lists, because their order counts. Both are read here, and unknown keys are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bascule.core import DType, Invalid, canonical_json

MAX_PARTS = 16

Value = str | bool | int | float
Text = Annotated[str, Meta(max_length=1_000)]
"""An expression; see `expressions`."""
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,30}\Z")]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Formula(_Struct, frozen=True):
    """In place of a constant: the value of an expression."""

    value: Text


class Rule(_Struct, frozen=True):
    """A row of a rule table: what it gives where `when` holds."""

    then: Annotated[dict[str, Value | Formula], Meta(min_length=1)]
    when: Text = ""


class Route(_Struct, frozen=True):
    """A row of a router: the part that answers where `when` holds."""

    part: str
    when: Text = ""


class Example(_Struct, frozen=True):
    """Of a rule table: values by reference, the others missing, and what it must give then."""

    given: dict[str, Value]
    then: dict[str, Value]


class Model(_Struct, frozen=True):
    """A part that answers as a bundle does.

    Attributes:
        name: Of the part.
        model: In TOML a reference or folder, in a bundle the model's name.
        digest: Of the bundle, and
        program: the one of it that runs: set where the composition is packed.
        inputs: By input of the model, the expression that gives it; else the column of its name.
    """

    name: Name
    model: str
    digest: str = ""
    program: str = ""
    inputs: dict[str, Text] = {}


class Ensemble(_Struct, frozen=True):
    """A part that puts the answers of others together."""

    name: Name
    ensemble: Annotated[list[str], Meta(min_length=2)]
    how: Literal["mean", "vote"] = "mean"
    weights: list[Annotated[float, Meta(ge=0)]] = []


class Router(_Struct, frozen=True):
    """A part where the first row that holds names the part that answers."""

    name: Name
    router: Annotated[list[Route], Meta(max_length=1_000)]


class Rules(_Struct, frozen=True):
    """A part where the first row that holds gives the outputs."""

    name: Name
    rules: Annotated[list[Rule], Meta(max_length=1_000)]
    examples: list[Example] = []


Part = Model | Ensemble | Router | Rules
_KINDS: dict[str, type[Part]] = {
    "model": Model, "ensemble": Ensemble, "router": Router, "rules": Rules,
}  # fmt: skip


class Output(_Struct, frozen=True):
    """An output of the composition."""

    name: str
    value: Text


class Document(_Struct, frozen=True):
    """A composition. Without `outputs`, it answers what the last part does.

    `inputs`: types of columns of the request that no model reads, but an expression does.
    """

    parts: list[Any]
    outputs: list[Output] = []
    inputs: dict[str, DType] = {}


def wrong(message: str) -> Invalid:
    """The error for what no composition may say."""
    return Invalid(message, hint="docs/how-to/compose-models.md tells what it may say")


def read_document(value: Any) -> Document:
    """The composition that TOML or JSON holds. Raises `Invalid`, which names the place."""
    fields = dict(value) if isinstance(value, Mapping) else {}
    if isinstance(parts := fields.get("parts"), Mapping):
        fields["parts"] = [
            {**part, "name": name} if isinstance(part, Mapping) else part
            for name, part in parts.items()
        ]
    if isinstance(outputs := fields.get("outputs"), Mapping):
        fields["outputs"] = [{"name": name, "value": text} for name, text in outputs.items()]
    document: Document = _converted(fields, Document, "this is no composition")
    document = msgspec.structs.replace(document, parts=[_part(part) for part in document.parts])
    names = {part.name for part in document.parts}
    if not 1 <= len(document.parts) <= MAX_PARTS or len(names) < len(document.parts):
        raise wrong(f"parts: a composition has 1 to {MAX_PARTS}, with names of their own")
    return document


def _part(fields: Any) -> Part:
    fields = fields if isinstance(fields, Mapping) else {}
    at = f"parts.{fields.get('name')}"
    kinds = [kind for kind in _KINDS if fields.get(kind)]
    if len(kinds) != 1:
        keys = " and ".join(kinds) or "none"
        raise wrong(f"{at}: a part has one of {', '.join(_KINDS)}, and this one {keys}")
    part: Part = _converted(fields, _KINDS[kinds[0]], at)
    if isinstance(part, Ensemble) and part.weights:
        total = sum(part.weights)
        if len(part.weights) != len(part.ensemble) or not 0 < total < math.inf:
            raise wrong(f"{at}.weights: there is one of 0 or more for each part")
    try:
        canonical_json(msgspec.to_builtins(part))
    except ValueError:
        raise wrong(f"{at}: NaN or an infinite number stands in it") from None
    return part


def _converted(value: Any, kind: Any, at: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as problem:
        raise wrong(f"{at}: {str(problem).replace('$.', '')}") from None
