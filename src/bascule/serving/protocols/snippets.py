"""Programs of a few lines that ask a server for predictions: every protocol, in several languages.

They work as they are: the rows are the bundle's example, the path is that of the protocol, and what
callers need is read from the environment: a key from `BASCULE_KEY`, the files of a certificate from
`BASCULE_CERTIFICATE` and `BASCULE_CERTIFICATE_KEY`. Pure: facts to text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from bascule.core import Columns, DType, Invalid, Signature
from bascule.serving.protocols.chosen import EVERY_PROTOCOL, ChosenProtocols
from bascule.serving.protocols.openapi import example_columns, example_rows

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
    return LANGUAGES[lang](asked, _HTTP_PROTOCOLS[protocol](asked))


# -- protocols --


def _oip(asked: SnippetRequest) -> _Request:
    shown = example_columns(asked.signature, asked.example)
    inputs = []
    for one in asked.signature.inputs:
        values = shown[one.name]
        shape = list(np.shape(values))
        inputs.append(
            {"name": one.name, "datatype": one.dtype.value, "shape": shape, "data": values}
        )
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
PROTOCOLS = (*_HTTP_PROTOCOLS, "grpc")
"""Every protocol that a snippet can be of."""


# -- languages --


def _curl(asked: SnippetRequest, request: _Request) -> str:
    lines = [f"# {request.note}"] if request.note else []
    lines += [f"curl -sS --fail-with-body {asked.url}{request.path} \\"]
    if asked.with_certificate:
        lines += [
            f'  --cert "${CERTIFICATE_VARIABLE}" --key "${CERTIFICATE_KEY_VARIABLE}" \\',
        ]
    if asked.with_key:
        lines += [f'  -H "Authorization: Bearer ${KEY_VARIABLE}" \\']
    lines += ["  -H 'Content-Type: application/json' --data-binary @- <<'END'"]
    return "\n".join([*lines, _as_json(request), "END"])


def _python(asked: SnippetRequest, request: _Request) -> str:
    items = "".join(f"        {_literal(item)},\n" for item in request.items)
    lines = [f"# {request.note}"] if request.note else []
    lines += ["import json"]
    lines += ["import os"] if asked.with_key or asked.with_certificate else []
    lines += ["import ssl"] if asked.with_certificate else []
    lines += [
        "import urllib.request",
        "",
        f'body = {{\n    "{request.key}": [\n{items}    ]\n}}',
        "request = urllib.request.Request(",
        f'    "{asked.url}{request.path}",',
        "    json.dumps(body).encode(),",
        "    {",
        '        "Content-Type": "application/json",',
    ]
    if asked.with_key:
        lines += [f'        "Authorization": "Bearer " + os.environ["{KEY_VARIABLE}"],']
    lines += ["    },", ")"]
    context = ""
    if asked.with_certificate:
        context = ", context=context"
        lines += [
            "context = ssl.create_default_context()",
            "context.load_cert_chain(",
            f'    os.environ["{CERTIFICATE_VARIABLE}"], os.environ["{CERTIFICATE_KEY_VARIABLE}"]',
            ")",
        ]
    lines += [
        f"with urllib.request.urlopen(request{context}) as answer:",
        "    print(json.dumps(json.load(answer)))",
    ]
    return "\n".join(lines)


def _js(asked: SnippetRequest, request: _Request) -> str:
    body, sent = _as_json(request), "JSON.stringify(body)"
    if any(_is_too_large_for_js(item) for item in request.items):
        # Its numbers would be rounded; the text is sent as it is.
        body, sent = json.dumps(body, ensure_ascii=False), "body"
    url = f"{asked.url}{request.path}"
    said = ['    method: "POST",', "    headers: {", '      "Content-Type": "application/json",']
    if asked.with_key:
        said += [f"      Authorization: `Bearer ${{process.env.{KEY_VARIABLE}}}`,"]
    said += ["    },"]
    lines = [f"// {request.note}"] if request.note else []
    lines += [f"const body = {body};", ""]
    asks = _js_with_certificate if asked.with_certificate else _js_with_fetch
    return "\n".join([*lines, *asks(url, said, sent), "", "main();"])


def _js_with_fetch(url: str, said: list[str], sent: str) -> list[str]:
    return [
        "async function main() {",
        f'  const answer = await fetch("{url}", {{',
        *said,
        f"    body: {sent},",
        "  });",
        "  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);",
        "  console.log(JSON.stringify(await answer.json()));",
        "}",
    ]


def _js_with_certificate(url: str, said: list[str], sent: str) -> list[str]:
    """With Node's own client of HTTPS: its `fetch` takes no certificate."""
    return [
        'const { readFileSync } = require("node:fs");',
        'const https = require("node:https");',
        "",
        "function main() {",
        f'  const request = https.request("{url}", {{',
        *said,
        f"    cert: readFileSync(process.env.{CERTIFICATE_VARIABLE}),",
        f"    key: readFileSync(process.env.{CERTIFICATE_KEY_VARIABLE}),",
        "  }, async (answer) => {",
        '    let text = "";',
        '    for await (const piece of answer.setEncoding("utf8")) text += piece;',
        "    if (answer.statusCode !== 200) throw new Error(`${answer.statusCode}: ${text}`);",
        "    console.log(JSON.stringify(JSON.parse(text)));",
        "  });",
        f"  request.end({sent});",
        "}",
    ]


AUTHORITY_VARIABLES = {
    "curl": "CURL_CA_BUNDLE",
    "python": "SSL_CERT_FILE",
    "js": "NODE_EXTRA_CA_CERTS",
    "grpc": "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
}
"""The variable in which each language, and gRPC, reads whom to trust where the system does not."""

LANGUAGES: dict[str, Callable[[SnippetRequest, _Request], str]] = {
    "curl": _curl,
    "python": _python,
    "js": _js,
}
"""Every language; over gRPC there is Python alone."""


def _as_json(request: _Request) -> str:
    items = ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in request.items)
    return f'{{"{request.key}": [\n  {items}\n]}}'


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


# -- gRPC --


def _grpc_in_python(asked: SnippetRequest) -> str:
    columns = example_columns(asked.signature, _without_missing_texts(asked))
    given = ""
    for one in asked.signature.inputs:
        values = _literal(columns[one.name]).replace("None", "np.nan")
        kind = "object"
        if one.dtype is DType.BYTES:
            values = _literal(columns[one.name])
        else:
            kind = f"np.{one.dtype.numpy.name}".replace("np.bool", "np.bool_")
        given += f"    {_literal(one.name)}: np.array({values}, {kind}),\n"
    lines = ['# pip install "tritonclient[grpc]"']
    lines += ["import os", ""] if asked.with_key or asked.with_certificate else []
    lines += [
        "import numpy as np",
        "import tritonclient.grpc as triton",
        "from tritonclient.utils import np_to_triton_dtype",
        "",
        f"columns = {{\n{given}}}",
        "inputs = []",
        "for name, values in columns.items():",
        "    tensor = triton.InferInput(name, values.shape, np_to_triton_dtype(values.dtype))",
        "    tensor.set_data_from_numpy(values)",
        "    inputs.append(tensor)",
        *_triton_client(asked),
    ]
    more = f', model_version="{asked.version}"' if asked.version else ""
    if asked.with_key:
        lines += [f'    key = {{"authorization": "Bearer " + os.environ["{KEY_VARIABLE}"]}}']
        more += ", headers=key"
    lines += [
        f'    answer = client.infer("{asked.model}", inputs{more})',
        "for output in answer.get_response().outputs:",
        "    print(output.name, answer.as_numpy(output.name).tolist())",
    ]
    return "\n".join(lines)


def _triton_client(asked: SnippetRequest) -> list[str]:
    if not asked.with_certificate:
        ssl = ", ssl=True" if asked.with_tls else ""
        return [f'with triton.InferenceServerClient("{asked.grpc}"{ssl}) as client:']
    return [
        "with triton.InferenceServerClient(",
        f'    "{asked.grpc}",',
        "    ssl=True,",
        f'    certificate_chain=os.environ["{CERTIFICATE_VARIABLE}"],',
        f'    private_key=os.environ["{CERTIFICATE_KEY_VARIABLE}"],',
        ") as client:",
    ]


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
