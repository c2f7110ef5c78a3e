"""`/try/E`: a form made from the signature, the answer of the server, and snippets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import Query, Request, Response

from bascule.bundle.extras import Extra, Parameter, declared_extras, read_texts
from bascule.console.facts import endpoints_of
from bascule.console.forms import field
from bascule.console.session import current
from bascule.console.site import Crumb, context_of, form_of, page_router, render
from bascule.console.words import cell
from bascule.core import BasculeError, Columns, DType, Field, Invalid, NotFound, Signature
from bascule.serving.protocols import snippets

if TYPE_CHECKING:
    from bascule.control import ControlContext
    from bascule_client import Answer

router = page_router({"GET /try": ("read", ""), "GET /try/{name}": ("read", "{name}"),
                      "POST /try/{name}": ("infer", "{name}")})  # fmt: skip

_MAX_FIELDS = 300
"""Fields of a form; a model with more gets one row as JSON."""
_MAX_JSON = 1 << 20
_ANY = 1e30
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
    """

    name: str
    version: str
    signature: Signature
    example: Columns | None
    extras: Sequence[type[Extra]]

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
        kind: `number`, `integer`, `text`, `choice`, `flag` or `json`.
        value: As it is filled in.
        choices: Of a `choice`.
        note: What it takes, in a few words.
    """

    name: str
    kind: str
    value: str
    choices: Sequence[str] = ()
    note: str = ""


@router.get("/try")
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


@router.get("/try/{name}")
def show(request: Request, name: str, row: Annotated[int, Query(ge=1, le=1_000)] = 1) -> Response:
    """The form, with a row of the bundle's example filled in."""
    served = served_as(context_of(request), name)
    chosen = min(row, served.examples)
    inputs = inputs_of(served.signature, served.example, max(chosen, 1) - 1, None)
    usual = {one.name: "" if one.usual is None else str(one.usual) for one in served.parameters}
    return _page(request, served, inputs, usual, chosen=chosen)


@router.post("/try/{name}")
def ask(request: Request, name: str) -> Response:
    """Ask the server, by its own protocol, with the rights of the key that was typed in."""
    form, context = form_of(request), context_of(request)
    served = served_as(context, name)
    answer = problem = None
    texts = {one.name: field(form, one.name) for one in served.parameters}
    try:
        columns, key = columns_of(served.signature, form), field(form, "key", max_length=256)
        answer = _asked(context, served, columns, read_texts(texts), key)
    except BasculeError as error:
        problem = error
    inputs = inputs_of(served.signature, served.example, 0, form)
    return _page(request, served, inputs, texts, answer=answer, problem=problem)


def _page(
    request: Request, served: Served, inputs: Sequence[Input], texts: Mapping[str, str], *,
    chosen: int = 0, answer: Mapping[str, Any] | None = None, problem: BasculeError | None = None,
) -> Response:  # fmt: skip
    context = context_of(request)
    url = _url(context)
    asked = snippets.SnippetRequest(
        served.name, None, served.signature, served.example, url=url,
        with_key=context.asks_for_keys, with_tls=url.startswith("https"),
    )  # fmt: skip
    return render(
        request, "try.html", f"Try {served.name}", status=422 if problem else 200,
        crumbs=[Crumb("Try it", "/try"), Crumb(served.name)], served=served, inputs=inputs,
        chosen=chosen, texts=texts, answer=answer, problem=problem,
        snippets=[(lang, snippets.snippet(asked, "oip", lang)) for lang in LANGUAGES],
        asks_for_keys=context.asks_for_keys,
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
    inputs, example = manifest.signature.inputs, None
    if EXAMPLE in manifest.files:
        example = read_columns(read_file(path, manifest, EXAMPLE), inputs)
    return Served(name, version, manifest.signature, example, declared_extras(manifest))


def inputs_of(
    signature: Signature, example: Columns | None, row: int, form: Mapping[str, str] | None
) -> list[Input]:
    """The fields of the form: one a column, or one of JSON for a model that has too many."""
    names = _names(signature)
    if not names:
        made = _row_json(signature, example, row)
        value = made if form is None else form.get("row", "")
        return [Input("row", "json", value, (), "one row as JSON")]
    return [
        replace(one, value=form.get(f"in.{one.name}", "")) if form is not None else one
        for one in (_input(name, kind, example, row, place) for name, kind, place in names)
    ]


def _names(signature: Signature) -> list[tuple[str, Field, int | None]]:
    """The columns, their field and their place in a matrix; empty where one form cannot show it."""
    first = signature.inputs[0]
    if signature.is_matrix and 0 < first.shape[0] <= _MAX_FIELDS:
        known = signature.columns or [f"{first.name}[{at}]" for at in range(first.shape[0])]
        return [(str(name), first, at) for at, name in enumerate(known)]
    if any(one.shape for one in signature.inputs) or len(signature.inputs) > _MAX_FIELDS:
        return []
    return [(one.name, one, None) for one in signature.inputs]


def _input(name: str, kind: Field, example: Columns | None, row: int, place: int | None) -> Input:
    value: Any = None
    if example is not None:
        values = example[kind.name][row]
        value = values if place is None else values[place]
    notes = []
    if kind.bounds and max(map(abs, kind.bounds)) < _ANY:  # wider ones only refuse infinity
        notes.append(f"{kind.bounds[0]:g} to {kind.bounds[1]:g}")
    notes += ["may be empty"] if kind.nullable else []
    if kind.categories:
        return Input(name, "choice", _text(value), [str(one) for one in kind.categories],
                     ", ".join(notes))  # fmt: skip
    which = (
        "text" if kind.dtype is DType.BYTES else "flag" if kind.dtype is DType.BOOL else "number"
    )
    return Input(name, which, _text(value), (), ", ".join(notes))


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return ""
    if isinstance(value, np.generic):
        value = value.item()
    return repr(value) if isinstance(value, float) else str(value).lower() if isinstance(
        value, bool
    ) else str(value)  # fmt: skip


def _row_json(signature: Signature, example: Columns | None, row: int) -> str:
    if example is None:
        return json.dumps({one.name: [] for one in signature.inputs})
    values = {one.name: np.asarray(example[one.name][row]).tolist() for one in signature.inputs}
    return json.dumps(values)


def columns_of(signature: Signature, form: Mapping[str, str]) -> Any:
    """The row of a form as the client takes it: columns, or a matrix. Pure.

    Raises:
        Invalid: A value is no number, or is missing where the model needs one.
    """
    names = _names(signature)
    if not names:
        return _columns_of_json(signature, form.get("row", ""))
    values = [_value(name, kind, form.get(f"in.{name}", "").strip()) for name, kind, _ in names]
    if signature.is_matrix:
        return np.array([values], signature.inputs[0].dtype.numpy)
    columns: Columns = {}
    for (name, kind, _), value in zip(names, values, strict=True):
        array = np.empty(1, kind.dtype.numpy)
        array[0] = value
        columns[name] = array
    return columns


def _value(name: str, kind: Field, text: str) -> Any:
    if kind.dtype is DType.BYTES:
        return text if text or not kind.nullable else None
    if kind.dtype is DType.BOOL:
        return text in ("true", "1", "on")
    if not text:
        if kind.dtype.is_float:
            return math.nan
        raise Invalid(f"{name} is empty, and the model needs a number", field=name)
    try:
        return float(text) if kind.dtype.is_float else int(text)
    except ValueError:
        raise Invalid(
            f"{name}: {text[:64]!r} is no number", hint="write 12 or 0.5", field=name
        ) from None


def _columns_of_json(signature: Signature, text: str) -> Columns:
    if len(text) > _MAX_JSON:
        raise Invalid(f"row: {len(text):,} letters are over {_MAX_JSON:,}", field="row")
    try:
        said = json.loads(text)
        return {one.name: np.array([said[one.name]], one.dtype.numpy) for one in signature.inputs}
    except (ValueError, TypeError, RecursionError):
        raise Invalid(
            "row: no JSON object of numbers", hint="see the example", field="row"
        ) from None
    except KeyError as absent:
        raise Invalid(f"row: {absent} is missing", hint="see the example", field="row") from None


def _asked(
    context: ControlContext, served: Served, columns: Any, parameters: Mapping[str, Any], key: str
) -> dict[str, Any]:
    import time

    from bascule_client import Client

    with Client(_url(context), key=key or None, timeout_s=_TIMEOUT_S, retries=0) as client:
        start_s = time.perf_counter()
        answer = client.predict(columns, model=served.name, parameters=parameters, as_json=True)
        took_s = time.perf_counter() - start_s
    return said_of(answer, took_s, served.extras)


def said_of(answer: Answer, took_s: float, extras: Sequence[type[Extra]] = ()) -> dict[str, Any]:
    """The answer to one row, in words. Pure."""
    added = tuple(name for extra in extras for names in extra.outputs.values() for name in names)
    columns = {name: values[0] for name, values in answer.columns().items()}
    sets, shares, outputs = [], [], []
    for name, value in columns.items():
        plain = value.item() if isinstance(value, np.generic) else value
        is_share = name.startswith("probabilities_") and isinstance(plain, float)
        if name.startswith(added):
            sets.append((name, cell(plain)))
        elif is_share:
            shares.append((name.removeprefix("probabilities_"), float(plain)))
        else:
            outputs.append((name, cell(plain.tolist() if isinstance(plain, np.ndarray) else plain)))
    shares.sort(key=lambda one: -one[1])
    id_ = answer.requests[0][0] if answer.requests else ""
    return {
        "outputs": outputs, "shares": shares[:10], "sets": sets, "version": answer.version,
        "id": id_, "milliseconds": took_s * 1e3,
    }  # fmt: skip


def _url(context: ControlContext) -> str:
    """Where predictions are served, from this machine."""
    try:
        host, port = context.server.address
    except NotFound:
        return "http://127.0.0.1:8080"
    if host in ("", "0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
