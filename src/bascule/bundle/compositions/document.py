"""What a composition says: parts, how columns reach them, and what is answered.

People write it in TOML, where `parts` and `outputs` are tables by name; a bundle keeps it as JSON,
where both are lists, because their order counts and canonical JSON sorts keys. Both are read here,
and nothing else is taken: an unknown key is refused with its place.
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
_KINDS = ("model", "ensemble", "router", "rules")

Value = str | bool | int | float
Text = Annotated[str, msgspec.Meta(max_length=1_000)]
"""An expression; see `expressions`."""


class Formula(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In place of a constant: the value of an expression."""

    value: Text


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A row of a rule table: what holds, and the outputs then. `when` is empty in the last one."""

    then: dict[str, Value | Formula]
    when: Text = ""


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Values by reference, as conditions write them, and outputs that the table must give then.

    What is not given is missing.
    """

    given: dict[str, Value]
    then: dict[str, Value]


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A row of a router: what holds, and the part that answers then."""

    part: str
    when: Text = ""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One node of the graph; exactly one of `model`, `ensemble`, `router` and `rules` is set.

    Attributes:
        name: What others call it.
        model: A bundle: in TOML a reference or folder, in a bundle the model's name.
        digest: Of that bundle. Set where the composition is packed.
        program: Of that bundle. Set where the composition is packed.
        inputs: By input of the model, the expression that gives it, or one for each column of a
            matrix; an input that is not here is the column of the request of its name.
        ensemble: Parts, whose answers are put together.
        how: `mean` of numbers or probabilities, or the `vote` of labels.
        weights: Of the parts of the ensemble; equal if empty.
        router: Which part answers a row: the first whose condition holds.
        rules: A rule table: the first row whose condition holds gives the outputs.
        examples: Of the rule table; packing refuses a table that fails one.
    """

    name: str
    model: str = ""
    digest: str = ""
    program: str = ""
    inputs: dict[str, Text | list[Text]] = {}
    ensemble: list[str] = []
    how: Literal["mean", "vote"] = "mean"
    weights: list[float] = []
    router: list[Route] = []
    rules: list[Rule] = []
    examples: list[Example] = []


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An output of the composition: its name, and the expression that gives it."""

    name: str
    value: Text


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A column of the request that no model declares: only conditions and expressions read it."""

    dtype: str
    nullable: bool = False


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A composition.

    Attributes:
        parts: In the order of the inputs of the request that they add.
        outputs: What is answered; the outputs of the last part if empty.
        inputs: Columns of the request that no model declares.
    """

    parts: list[Part]
    outputs: list[Output] = []
    inputs: dict[str, Input] = {}


def read_document(value: Any) -> Document:
    """The composition that TOML or JSON holds.

    Raises:
        Invalid: It is none; the message names the place.
    """
    document = _converted(_as_lists(value), Document, "composition")
    names = [part.name for part in document.parts]
    if not 1 <= len(names) <= MAX_PARTS:
        raise Invalid(
            f"parts: a composition has 1 to {MAX_PARTS} of them, and here are {len(names)}"
        )
    for name in names:
        if not _NAME.fullmatch(name):
            raise Invalid(
                f"parts.{name}: no name of a part",
                hint="write up to 31 small letters, digits and _, a letter first",
            )
        if names.count(name) > 1:
            raise Invalid(f"parts.{name}: there are two of that name")
    for part in document.parts:
        _check_kind(part)
    return document


def _as_lists(value: Any) -> Any:
    """The form of a bundle, from the form that people write."""
    if not isinstance(value, Mapping):
        return value
    made = dict(value)
    if isinstance(parts := made.get("parts"), Mapping):
        made["parts"] = [
            {"name": name, **part} if isinstance(part, Mapping) else part
            for name, part in parts.items()
        ]
    if isinstance(outputs := made.get("outputs"), Mapping):
        made["outputs"] = [{"name": name, "value": said} for name, said in outputs.items()]
    if isinstance(inputs := made.get("inputs"), Mapping):
        made["inputs"] = {
            name: {"dtype": said} if isinstance(said, str) else said
            for name, said in sorted(inputs.items())
        }
    return made


def _converted(value: Any, kind: type[Document], what: str) -> Document:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as problem:
        said = " ".join(str(problem).split())
        if (found := re.search(r"`\$\.parts\[(\d+)\]", said)) and isinstance(value, Mapping):
            place = value["parts"][int(found[1])]
            name = place.get("name") if isinstance(place, Mapping) else None
            said = said.replace(f"$.parts[{found[1]}]", f"parts.{name}")
        raise Invalid(
            f"this is no {what}: {said.replace('$.', '')}",
            hint="see docs/how-to/compose-models.md",
        ) from None


def _check_kind(part: Part) -> None:
    at = f"parts.{part.name}"
    kinds = [kind for kind in _KINDS if getattr(part, kind)]
    if len(kinds) != 1:
        said = " and ".join(kinds) or "none of them"
        raise Invalid(f"{at}: a part has one of {', '.join(_KINDS)}, and this one {said}")
    for key, of in (("inputs", "model"), ("weights", "ensemble"), ("examples", "rules")):
        if getattr(part, key) and kinds != [of]:
            raise Invalid(f"{at}.{key}: is of a part with {of}, and this one has {kinds[0]}")
    if part.ensemble and len(part.ensemble) < 2:
        raise Invalid(f"{at}.ensemble: needs two parts or more")
    weights = part.weights
    if weights and (len(weights) != len(part.ensemble) or min(weights) < 0 or not sum(weights)):
        raise Invalid(f"{at}.weights: give one number of 0 or more for each part, not all 0")
    for key in ("router", "rules"):
        rows: list[Any] = getattr(part, key)
        if len(rows) > _MAX_ROWS:
            raise Invalid(f"{at}.{key}: has {len(rows):,} rows, and {_MAX_ROWS:,} may be")
        for place, row in enumerate(rows, 1):
            is_last = place == len(rows)
            if is_last == bool(row.when):
                said = (
                    "the last row has no `when`" if is_last else "only the last row has no `when`"
                )
                raise Invalid(
                    f"{at}.{key}[{place}]: {said}: it is for all that is left",
                    hint="so that every row of a request has an answer",
                )
