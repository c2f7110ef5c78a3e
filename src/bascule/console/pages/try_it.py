"""`/try/E`: a form made from the signature, the answer of the server, and snippets."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import Query, Request, Response

from bascule.bundle.explaining import (
    Explanation,
    read_explanation,
    waterfall_plot,
)
from bascule.bundle.extras import Extra, Parameter, declared_extras, read_texts
from bascule.console.facts import endpoints_of
from bascule.console.forms import field
from bascule.console.session import current
from bascule.console.site import Crumb, PageRouter, context_of, form_of, render
from bascule.console.words import cell, percent
from bascule.core import (
    BasculeError,
    Columns,
    Dates,
    DType,
    Field,
    Invalid,
    NotFound,
    Signature,
)
from bascule.serving.protocols import snippets
from bascule.stats import LOWER, PREDICTION_SET, UPPER

if TYPE_CHECKING:
    from bascule.control import ControlContext
    from bascule_client import Answer

router = PageRouter()

_MAX_FIELDS = 300
"""Fields of a form; a model with more gets one row as JSON."""
_MAX_JSON = 1 << 20
_ANY = 1e30
_LONG_TEXT = 60
_MAX_KNOWN = 100
_TO_SECONDS = len("2024-03-01T12:30:00")
_CONTROLS = {Dates.DAY: "date", Dates.LOCAL: "datetime-local", Dates.INSTANT: "datetime-local"}
_TIMEOUT_S = 30.0
LANGUAGES = ("curl", "python", "js")


@dataclass(frozen=True, slots=True)
class Served:
    """What a name answers with.

    Attributes:
        name: Of the endpoint or the model.
        version: `MODEL/NUMBER` that answers.
        signature: Of that version.
        example: Rows of it; None without any.
        extras: The extra outputs that it can answer with.
        known: By column of texts, the values of the training rows, where they are few.
        explanation: What its explanations are; None where it has none.
    """

    name: str
    version: str
    signature: Signature
    example: Columns | None
    extras: Sequence[type[Extra]]
    known: Mapping[str, Sequence[str]]
    explanation: Explanation | None = None

    @property
    def parameters(self) -> list[Parameter]:
        return [one for extra in self.extras for one in extra.parameters]

    @property
    def examples(self) -> int:
        return 0 if self.example is None else len(next(iter(self.example.values())))


@dataclass(frozen=True, slots=True)
class Input:
    """One field of the form.

    Attributes:
        name: Of the column.
        kind: `choice`, `area` for long texts, or a type of the element `input` of HTML.
        value: As it is filled in.
        choices: Of a `choice`; values that are suggested for a `text`.
        note: What it takes, in a few words.
        step: Of a number: `1` or `any`.
        bounds: Of a number: the least and the largest one.
        problem: Why its value is refused.
    """

    name: str
    kind: str
    value: str
    choices: Sequence[str] = ()
    note: str = ""
    step: str = "any"
    bounds: tuple[float, float] | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """An input that a picture can fill in: its size, and how pixels become its numbers.

    Attributes:
        name: Of the input.
        size: Height, width and channels: 1 or 3.
        divisor: Of a pixel of 0 to 255: 255 where the example has shares.
    """

    name: str
    size: tuple[int, int, int]
    divisor: int


@router.page("GET /try", "read")
def names(request: Request) -> Response:
    """The endpoints and models that are served."""
    context, session = context_of(request), current(request)
    found = {one.name: one.answers for one in endpoints_of(context, session)}
    for one in context.server.services:
        if session.allows("read", one.model):
            found.setdefault(one.model, f"version {one.version}")
    return render(
        request, "try_names.html", "Try it", crumbs=[Crumb("Try it")], names=sorted(found.items())
    )


@router.page("GET /try/{name}", "read", "{name}")
def show(request: Request, name: str, row: Annotated[int, Query(ge=1, le=1_000)] = 1) -> Response:
    """The form, with a row of the bundle's example filled in."""
    served = served_as(context_of(request), name)
    chosen = min(row, served.examples)
    inputs = inputs_of(served.signature, served.example, max(chosen, 1) - 1, None, served.known)
    usual = {one.name: _text(one.usual) for one in served.parameters}
    return _page(request, served, inputs, usual, chosen=chosen)


@router.page("POST /try/{name}", "infer", "{name}")
def ask(request: Request, name: str) -> Response:
    """Ask the server by its own protocol, with the rights of the session.

    A server beside which this process does not run is asked with the key that was typed in.
    """
    form, context = form_of(request), context_of(request)
    served = served_as(context, name)
    answer, problem, problems = None, None, dict[str, str]()
    texts = {one.name: field(form, one.name) for one in served.parameters}
    try:
        columns, problems = row_of(served.signature, form)
        key = context.server.token or field(form, "key", max_length=256)
        if not problems:
            answer = _asked(context, served, columns, read_texts(texts), key)
    except BasculeError as error:
        problem = error
        problems = {str(error.facts.get("field")): error.message}
    inputs = inputs_of(served.signature, served.example, 0, form, served.known)
    inputs = [replace(one, problem=problems.get(one.name, "")) for one in inputs]
    return _page(request, served, inputs, texts, answer=answer, problem=problem, form=form)


def _page(
    request: Request, served: Served, inputs: Sequence[Input], texts: Mapping[str, str], *,
    chosen: int = 0, answer: Mapping[str, Any] | None = None, problem: BasculeError | None = None,
    form: Mapping[str, str] | None = None,
) -> Response:  # fmt: skip
    context = context_of(request)
    url = _url(context)
    asked = snippets.SnippetRequest(
        served.name, None, served.signature, served.example, url=url,
        with_key=context.asks_for_keys, with_tls=url.startswith("https"),
    )  # fmt: skip
    wrong = [one.name for one in inputs if one.problem]
    row = (form or {}).get("row") or _row_json(served.signature, served.example, max(chosen, 1) - 1)
    return render(
        request, "try.html", f"Try {served.name}", status=422 if problem or wrong else 200,
        crumbs=[Crumb("Try it", "/try"), Crumb(served.name)], served=served, inputs=inputs,
        chosen=chosen, texts=texts, answer=answer, problem=problem, wrong=wrong, row=row,
        is_json=not inputs or (form or {}).get("as") == "json", picture=picture_of(served),
        snippets=[(lang, snippets.snippet(asked, "oip", lang)) for lang in LANGUAGES],
        needs_key=context.asks_for_keys and not context.server.token,
    )  # fmt: skip


def served_as(context: ControlContext, name: str) -> Served:
    """The version that answers a name. Raises `NotFound`."""
    from bascule.bundle.disk import EXAMPLE, columns_of as read_columns, read_file, read_manifest
    from bascule.serving import default_of

    version, path = "", None
    try:
        version = context.endpoints().endpoint(name).current.plan.current.version
        path = context.registry().path_to_look_at(version)
    except NotFound:
        spec = default_of(context.server.services, name)
        if spec is None:
            raise NotFound(
                f"nothing is served as {name!r}", hint="deploy a version, or open /try for a list"
            ) from None
        version, path = f"{spec.model}/{spec.version}", spec.path
    manifest = read_manifest(path, verify=False)
    known = _known_values(context, version)
    inputs, example = manifest.signature.inputs, None
    if EXAMPLE in manifest.files:
        example = read_columns(read_file(path, manifest, EXAMPLE), inputs)
    extras, explanation = declared_extras(manifest), read_explanation(path, manifest)
    return Served(name, version, manifest.signature, example, extras, known, explanation)


def _known_values(context: ControlContext, version: str) -> dict[str, Sequence[str]]:
    """The values of columns of texts in the training rows; of a folder that is served, none."""
    with suppress(BasculeError):
        registry = context.registry()
        said = registry.statements(registry.resolve(version, retired=True), "training")
        columns = said[-1].body["columns"] if said else {}
        return {
            name: one["values"][:_MAX_KNOWN] for name, one in columns.items() if "values" in one
        }
    return {}


def inputs_of(
    signature: Signature, example: Columns | None, row: int, form: Mapping[str, str] | None,
    known: Mapping[str, Sequence[str]] | None = None,
) -> list[Input]:  # fmt: skip
    """The fields of the form, one a column; none for a model that takes a row as JSON alone.

    Args:
        signature: Of the model.
        example: Rows that fill the fields in where there is no form.
        row: Of the example.
        form: What was sent; None for nothing.
        known: Values to suggest, by column.
    """
    made = [
        _input(name, kind, example, row, place, (known or {}).get(name, ()))
        for name, kind, place in _names(signature)
    ]
    if form is None or not made or form.get("as") == "json":
        return made
    return [replace(one, value=form.get(f"in.{one.name}", "")) for one in made]


def picture_of(served: Served) -> Picture | None:
    """The input of a model that takes one picture; None for other models. Pure."""
    first = served.signature.inputs[0]
    if len(served.signature.inputs) > 1 or (size := _size(first)) is None:
        return None
    has_shares = served.example is not None and np.max(served.example[first.name]) <= 1
    divisor = 255 if first.dtype.is_float and has_shares else 1
    return Picture(first.name, size, divisor)


def _size(kind: Field) -> tuple[int, int, int] | None:
    """Height, width and channels of an input that may be a picture."""
    shape = kind.shape
    if kind.dtype in (DType.BYTES, DType.BOOL) or len(shape) not in (2, 3) or min(shape) < 1:
        return None
    if _has_channels_first(kind):
        return shape[1], shape[2], shape[0]
    channels = shape[2] if len(shape) == 3 else 1
    return (shape[0], shape[1], channels) if channels in (1, 3) else None


def _has_channels_first(kind: Field) -> bool:
    return len(kind.shape) == 3 and kind.shape[0] in (1, 3)


def _names(signature: Signature) -> list[tuple[str, Field, int | None]]:
    """The columns, their field and their place in a matrix; empty where one form cannot show it."""
    first = signature.inputs[0]
    if signature.is_matrix and 0 < first.shape[0] <= _MAX_FIELDS:
        known = signature.columns or [f"{first.name}[{at}]" for at in range(first.shape[0])]
        return [(str(name), first, at) for at, name in enumerate(known)]
    if any(one.shape for one in signature.inputs) or len(signature.inputs) > _MAX_FIELDS:
        return []
    return [(one.name, one, None) for one in signature.inputs]


def _input(
    name: str, kind: Field, example: Columns | None, row: int, place: int | None,
    known: Sequence[str] = (),
) -> Input:  # fmt: skip
    value: Any = None
    if example is not None:
        values = example[kind.name][row]
        value = values if place is None else values[place]
    text, notes, bounds = _text(value), list[str](), None
    if kind.bounds and max(map(abs, kind.bounds)) < _ANY:  # wider ones only refuse infinity
        bounds = kind.bounds
        notes.append(f"{bounds[0]:g} to {bounds[1]:g}")
    notes += ["UTC"] if kind.dates is Dates.INSTANT else []
    notes += ["may be empty"] if kind.nullable else []
    empty = [""] if kind.nullable else []
    made = Input(name, "text", text, known, ", ".join(notes))
    if kind.categories:
        return replace(made, kind="choice", choices=[*empty, *map(str, kind.categories)])
    if kind.dtype is DType.BOOL or kind.booleans:
        text = {"1.0": "true", "0.0": "false"}.get(text, text)
        return replace(made, kind="choice", value=text, choices=[*empty, "true", "false"])
    if kind.dates is not None:
        text = text.removesuffix("Z")
        has_control = len(text) <= _TO_SECONDS  # a browser shows no parts of a second
        return replace(
            made, kind=_CONTROLS[kind.dates] if has_control else "text", value=text, step="1"
        )
    if kind.dtype is DType.BYTES:
        return replace(made, kind="area" if len(text) > _LONG_TEXT else "text")
    return replace(
        made, kind="number", choices=(), bounds=bounds, step="any" if kind.dtype.is_float else "1"
    )


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return ""
    text = str(value)  # of a single float: 0.1, not the 17 digits of the double
    return text.lower() if isinstance(value, bool | np.bool_) else text


def _row_json(signature: Signature, example: Columns | None, row: int) -> str:
    if example is None:
        return json.dumps({one.name: None for one in signature.inputs}, indent=1)
    values = {
        one.name: _plain(np.asarray(example[one.name][row]).tolist()) for one in signature.inputs
    }
    return (
        "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in values.items()) + "\n}"
    )


def _plain(value: Any) -> Any:
    """Without NaN, for which JSON has no word."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def row_of(signature: Signature, form: Mapping[str, str]) -> tuple[Columns, dict[str, str]]:
    """The row of a form as the client takes it; and by column, why its value is none. Pure.

    Raises:
        Invalid: A row that was sent as JSON cannot be read.
    """
    names = _names(signature)
    if not names or form.get("as") == "json":
        return _columns_of_json(signature, form.get("row", "")), {}
    values, problems = list[Any](), dict[str, str]()
    for name, kind, _ in names:
        try:
            values.append(_value(kind, form.get(f"in.{name}", "")))
        except ValueError:
            problems[name] = (
                "a number is needed, such as 0.5" if kind.dtype.is_float
                else "a whole number is needed, such as 12"
            )  # fmt: skip
    if problems:
        return {}, problems
    if signature.is_matrix:
        first = signature.inputs[0]
        return {first.name: np.array([values], first.dtype.numpy)}, {}
    columns: Columns = {}
    for (name, kind, _), value in zip(names, values, strict=True):
        columns[name] = np.empty(1, kind.dtype.numpy)
        try:
            columns[name][0] = value
        except OverflowError:
            problems[name] = f"it is outside of the numbers of {kind.dtype.value}"
    return columns, problems


def _value(kind: Field, text: str) -> Any:
    """The value of a text; raises `ValueError` where it is no number."""
    if kind.dtype is DType.BYTES:
        if kind.dates is Dates.INSTANT and text and "Z" not in text and "+" not in text:
            text += "Z"
        return text.replace("\r\n", "\n") if text or not kind.nullable else None
    text = text.strip()
    if kind.dtype is DType.BOOL or kind.booleans:
        return math.nan if kind.booleans and not text else text in ("true", "1", "on")
    if not text and kind.nullable:
        return math.nan
    return float(text) if kind.dtype.is_float else int(text)


def _columns_of_json(signature: Signature, text: str) -> Columns:
    if len(text) > _MAX_JSON:
        raise Invalid(f"row: {len(text):,} letters are over {_MAX_JSON:,}", field="row")
    try:
        said = json.loads(text)
        return {one.name: _tensor(one, said[one.name]) for one in signature.inputs}
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise Invalid(
            "row: no JSON object with a value for each input", hint="see the example", field="row"
        ) from None
    except KeyError as absent:
        raise Invalid(f"row: {absent} is missing", hint="see the example", field="row") from None


def _tensor(kind: Field, value: Any) -> Any:
    """One row of an input; `{"pixels": BASE64, "divisor": 255}` is a picture."""
    if isinstance(value, dict):
        if (size := _size(kind)) is None:
            raise TypeError("no picture")
        pixels = np.frombuffer(base64.b64decode(value["pixels"]), np.uint8).reshape(size)
        ordered = pixels.transpose(2, 0, 1) if _has_channels_first(kind) else pixels
        value = ordered.reshape(kind.shape) / value["divisor"]
    return np.array([value], kind.dtype.numpy)


def _asked(
    context: ControlContext, served: Served, columns: Any, parameters: Mapping[str, Any], key: str
) -> dict[str, Any]:
    import time

    from bascule_client import Client

    with Client(_url(context), key=key or None, timeout_s=_TIMEOUT_S, retries=0) as client:
        start_s = time.perf_counter()
        answer = client.predict(columns, model=served.name, parameters=parameters, as_json=True)
        took_s = time.perf_counter() - start_s
    shown = said_of(answer, took_s, served.extras, parameters)
    if served.explanation is None or "attributions" not in answer:
        return shown | {"why": None}
    plot = waterfall_plot(served.explanation, answer, served.signature, columns, 0)
    return shown | {"why": plot}


def said_of(
    answer: Answer, took_s: float, extras: Sequence[type[Extra]] = (),
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The answer to one row, in words. Pure."""
    added = tuple(name for extra in extras for names in extra.outputs.values() for name in names)
    outputs, shares = list[tuple[str, str]](), list[tuple[str, float]]()
    sets = dict[str, Any]()
    for name, values in answer.columns().items():
        if name.startswith("attributions"):  # a chart shows them
            continue
        value = values[0]
        plain = value.item() if isinstance(value, np.generic) else value
        is_share = name.startswith("probabilities_") and isinstance(plain, float)
        if name.startswith(added):
            sets[name] = plain
        elif is_share:
            shares.append((name.removeprefix("probabilities_"), float(plain)))
        else:
            outputs.append((name, cell(plain.tolist() if isinstance(plain, np.ndarray) else plain)))
    shares.sort(key=lambda one: -one[1])
    id_ = answer.requests[0][0] if answer.requests else ""
    return {
        "sentences": _sentences(outputs, shares, sets, (parameters or {}).get("confidence")),
        "outputs": outputs[1:], "shares": shares[:10],
        "sets": [(name, cell(value)) for name, value in sets.items()],
        "version": answer.version, "id": id_, "milliseconds": took_s * 1e3,
    }  # fmt: skip


def _sentences(
    outputs: Sequence[tuple[str, str]], shares: Sequence[tuple[str, float]],
    sets: Mapping[str, Any], confidence: float | None,
) -> list[str]:  # fmt: skip
    """The answer proper; then what holds the truth as often as the confidence says."""
    share = dict(shares).get(outputs[0][1]) if outputs else None
    probability = "" if share is None else f", with a probability of {percent(share)}"
    name = f"{outputs[0][0]}: " if len(outputs) > 1 else ""
    said = [f"{name}{outputs[0][1]}{probability}"] if outputs else []
    often = f"With a confidence of {percent(confidence)}, the" if confidence else "The"
    names = {name.removeprefix(f"{PREDICTION_SET}_"): value for name, value in sets.items()}
    if LOWER in sets and UPPER in sets:
        said.append(f"{often} truth is between {cell(sets[LOWER])} and {cell(sets[UPPER])}.")
    elif len(names) < len(sets) or names.keys() != sets.keys():
        held = " or ".join(name for name, value in names.items() if value is True)
        said.append(f"{often} truth is {held or 'none of the classes'}.")
    return said


def _url(context: ControlContext) -> str:
    """Where predictions are served, from this machine."""
    try:
        host, port = context.server.address
    except NotFound:
        return "http://127.0.0.1:8080"
    if host in ("", "0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
