"""Programs of a few lines that ask a server for predictions: every protocol, in several languages.

They work as they are: the rows are the bundle's example, the path is that of the protocol, and what
callers need is read from the environment: a key from `BASCULE_KEY`, the files of a certificate from
`BASCULE_CERTIFICATE` and `BASCULE_CERTIFICATE_KEY`. Pure: facts to text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from bascule.core import Columns, DType, Invalid, Signature
from bascule.serving.protocols.chosen import EVERY_PROTOCOL, ChosenProtocols
from bascule.serving.protocols.openapi import example_columns, example_rows, example_tensors

if TYPE_CHECKING:
    from jinja2 import Environment

KEY_VARIABLE = "BASCULE_KEY"
CERTIFICATE_VARIABLE = "BASCULE_CERTIFICATE"
CERTIFICATE_KEY_VARIABLE = "BASCULE_CERTIFICATE_KEY"
_LARGEST_IN_JS = 2**53 - 1


@dataclass(frozen=True, slots=True)
class SnippetRequest:
    """What a snippet is of.

    Attributes:
        model: Its name.
        version: None for the one that answers to the plain name.
        signature: What it takes.
        example: Rows of it; None where there are none, and then values are made up.
        url: Where predictions are served over HTTP: `http://127.0.0.1:8080`.
        grpc: Where they are over gRPC: `127.0.0.1:8081`.
        with_tls: Whether TLS is spoken there.
        with_key: Whether callers need a key.
        with_certificate: Whether they need a certificate of their own.
        protocols: The paths that can be chosen.
        parameters: Of extra outputs, by name; see `bundle.extras.read_pairs`.
    """

    model: str
    version: str | None
    signature: Signature
    example: Columns | None
    url: str = "http://127.0.0.1:8080"
    grpc: str = "127.0.0.1:8081"
    with_tls: bool = False
    with_key: bool = False
    with_certificate: bool = False
    protocols: ChosenProtocols = field(default=EVERY_PROTOCOL)
    parameters: Mapping[str, Any] = field(default_factory=dict)


class _Request(NamedTuple):
    """One request over HTTP: its path, its body of one list under a key, and what to know."""

    path: str
    key: str
    items: list[Any]
    note: str = ""


def snippet(asked: SnippetRequest, protocol: str, lang: str) -> str:
    """The text of a snippet.

    Raises:
        Invalid: There is no such protocol or language, or none of both.
    """
    if protocol not in PROTOCOLS:
        raise Invalid(
            f"--protocol: there is no protocol {protocol!r}",
            hint=f"there are {', '.join(PROTOCOLS)}",
        )
    if lang not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        raise Invalid(f"--lang: there is no language {lang!r}", hint=f"there are {known}")
    if protocol == "grpc":
        if lang != "python":
            raise Invalid(
                f"--lang: {lang} does not speak gRPC by itself", hint="there is python for grpc"
            )
        return _grpc_in_python(asked)
    place = _PARAMETERS_AT.get(protocol, "")
    if asked.parameters and not place:
        raise Invalid(f"--parameter: a request of {protocol} has no place for parameters")
    return _over_http(asked, _HTTP_PROTOCOLS[protocol](asked), lang, place)


# -- protocols --


def _oip(asked: SnippetRequest) -> _Request:
    inputs = example_tensors(asked.signature, asked.example)
    return _Request(f"/v2/models/{asked.model}{_version(asked)}/infer", "inputs", inputs)


def _version(asked: SnippetRequest) -> str:
    return f"/versions/{asked.version}" if asked.version else ""


def _by_row(
    asked: SnippetRequest, path: str, note: str = "", *, key: str = "instances"
) -> _Request:
    return _Request(path, key, example_rows(asked.signature, asked.example), note)


_FIRST = "This path asks the first model that is served."
_HTTP_PROTOCOLS: dict[str, Callable[[SnippetRequest], _Request]] = {
    "oip": _oip,
    "tfserving": lambda asked: _by_row(asked, f"/v1/models/{asked.model}{_version(asked)}:predict"),
    "invocations": lambda asked: _by_row(
        asked,
        "/invocations",
        "/invocations asks the first model that is served; "
        f"/models/{asked.model}/invoke asks this one by its name.",
    ),
    "vertex": lambda asked: _by_row(asked, asked.protocols.vertex_predict_route, _FIRST),
    "azureml": lambda asked: _by_row(asked, "/score", _FIRST, key="data"),
}
_PARAMETERS_AT = {
    "oip": "parameters", "invocations": "params", "vertex": "parameters", "azureml": "params"
}  # fmt: skip
PROTOCOLS = (*_HTTP_PROTOCOLS, "grpc")
"""Every protocol that a snippet can be of."""


# -- languages --


AUTHORITY_VARIABLES = {
    "curl": "CURL_CA_BUNDLE",
    "python": "SSL_CERT_FILE",
    "js": "NODE_EXTRA_CA_CERTS",
    "grpc": "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
}
"""The variable in which each language, and gRPC, reads whom to trust where the system does not."""

LANGUAGES = ("curl", "python", "js")
"""Every language; over gRPC there is Python alone."""


@cache
def _templates() -> Environment:
    """The texts, one a language; texts of a model come into them as literals."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bascule.serving.protocols"), autoescape=False, trim_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    environment.filters["python"] = _literal
    return environment


def _over_http(asked: SnippetRequest, request: _Request, lang: str, place: str) -> str:
    items = ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in request.items)
    more = f', "{place}": {json.dumps(asked.parameters)}' if asked.parameters else ""
    body = f'{{"{request.key}": [\n  {items}\n]{more}}}'
    return _templates().get_template(f"{lang}.j2").render(
        asked=asked, **request._asdict(), place=place, body=body,
        json_text=json.dumps(body, ensure_ascii=False),
        is_too_large=any(map(_is_too_large_for_js, request.items)),
    )  # fmt: skip


def _grpc_in_python(asked: SnippetRequest) -> str:
    values = example_columns(asked.signature, _without_missing_texts(asked))
    columns = []
    for one in asked.signature.inputs:
        text = _literal(values[one.name])
        if one.dtype is DType.BYTES:
            columns.append((one.name, text, "object"))
        else:
            kind = f"np.{one.dtype.numpy.name}".replace("np.bool", "np.bool_")
            columns.append((one.name, text.replace("None", "np.nan"), kind))
    return _templates().get_template("grpc.j2").render(asked=asked, columns=columns)


def _literal(value: Any) -> str:
    """A value of JSON as Python has it."""
    if isinstance(value, dict):
        parts = (f"{_literal(key)}: {_literal(one)}" for key, one in value.items())
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    # What JSON escapes in a text, if it leaves letters alone, Python reads the same way.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _is_too_large_for_js(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_is_too_large_for_js, value.values()))
    if isinstance(value, list):
        return any(map(_is_too_large_for_js, value))
    return isinstance(value, int) and abs(value) > _LARGEST_IN_JS


def _without_missing_texts(asked: SnippetRequest) -> Columns | None:
    """The rows of the example whose texts are all there: gRPC has no form for one that is not."""
    if asked.example is None:
        return None
    texts = [one.name for one in asked.signature.inputs if one.dtype is DType.BYTES]
    rows = len(next(iter(asked.example.values())))
    whole = [
        row
        for row in range(rows)
        if not any(None in asked.example[name][row : row + 1].ravel().tolist() for name in texts)
    ]
    if not whole:
        raise Invalid(
            "every example row of the bundle lacks a text, and gRPC has no form for that",
            hint="take another protocol: oip",
        )
    return {name: values[whole] for name, values in asked.example.items()}
