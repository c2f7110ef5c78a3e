"""The commands that ask: a bundle here, or a server from another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, Parameters, RefOrPath
from bascule.cli.screen import note, print_json, say
from bascule.core import counted, masked

_PORT, _GRPC_PORT = 8080, 8081


def predict(
    bundle: RefOrPath,
    data: Annotated[Path, typer.Argument(help="Rows (.parquet .csv .jsonl .feather .npy .npz).")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write .parquet, .csv or .jsonl.")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="Add a prediction set, or an interval, that holds the truth so often."),
    ] = None,
    conformal: Annotated[
        str | None, typer.Option(help="How: lac or aps for a classifier. Default: the first.")
    ] = None,
    parameter: Parameters = None,
    as_json: AsJson = False,
) -> None:
    """Answer the rows of a file here, without a server."""
    from bascule.batch import as_table, check_output, read_rows, split_truth, write_table
    from bascule.bundle import load
    from bascule.bundle.extras import read_pairs
    from bascule.cli.showing import print_answers

    if output is not None:
        check_output(output)
    _, path = context.find(bundle)
    loaded = load(path)
    rows, _ = split_truth(read_rows(data, "data"), None, "data", required=False)
    answer = loaded.predict(
        rows, confidence=confidence, conformal=conformal, parameters=read_pairs(parameter or ())
    )
    table = as_table(answer, loaded.manifest)
    if output is not None:
        write_table(table, output)
        note(f"wrote {counted(table.num_rows, 'row')} to {output}")
    elif as_json:
        print_json(table.to_pylist())
    else:
        print_answers(table)


def snippet(
    bundle: RefOrPath,
    protocol: Annotated[
        str,
        typer.Option(help="oip, tfserving, invocations, vertex, azureml or grpc."),
    ] = "oip",
    lang: Annotated[str, typer.Option(help="curl, python or js; over grpc python alone.")] = "curl",
    url: Annotated[
        str | None,
        typer.Option(
            help="Where the server is; for grpc HOST:PORT, with https:// before it where it "
            "speaks TLS. Default: where the settings say.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        bool | None,
        typer.Option(
            "--key/--no-key",
            help="Show a key, read from BASCULE_KEY. Default: if callers need one here.",
            show_default=False,
        ),
    ] = None,
    parameter: Parameters = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print a few lines that ask a server for this model, with rows of its own."""
    from bascule.bundle.extras import read_pairs
    from bascule.serving.protocols import snippets

    chosen = context.settings()
    asked = _asked(bundle, chosen, url, protocol, key=key, parameters=read_pairs(parameter or ()))
    text = snippets.snippet(asked, protocol, lang)
    if as_json:
        print_json(
            {
                "model": asked.model, "version": asked.version, "protocol": protocol, "lang": lang,
                "url": asked.grpc if protocol == "grpc" else asked.url,
                "key": snippets.KEY_VARIABLE if asked.with_key else None, "snippet": text,
            }
        )  # fmt: skip
        return
    say(text)
    if asked.with_key:
        note(f"put the key into {snippets.KEY_VARIABLE}: bascule keys create makes one")
    if asked.with_certificate:
        note(
            "put the paths of your certificate and its key into "
            f"{snippets.CERTIFICATE_VARIABLE} and {snippets.CERTIFICATE_KEY_VARIABLE}: the "
            "server lets in those that serving.tls_client_authority signed"
        )
    if asked.with_tls:
        variable = snippets.AUTHORITY_VARIABLES["grpc" if protocol == "grpc" else lang]
        note(
            "where the system does not know who signed the server's certificate, name the file "
            f"of that authority in {variable}"
        )
    if protocol == "grpc" and url is None and chosen.serving.grpc_port < 0:
        note(f"the server must speak gRPC: bascule serve --grpc-port {_GRPC_PORT}")
    if protocol != "grpc" and chosen.serving.protocols and protocol not in chosen.serving.protocols:
        note(
            f"serving.protocols leaves {protocol} out: "
            "a server with these settings does not speak it"
        )


def _asked(
    reference: str, chosen: Any, url: str | None, protocol: str, *, key: bool | None,
    parameters: dict[str, Any],
) -> Any:  # fmt: skip
    from bascule.app import callers_need_keys, protocols_of
    from bascule.bundle.disk import EXAMPLE, columns_of, read_file, read_manifest
    from bascule.cli.screen import url_host
    from bascule.core import Reference
    from bascule.serving.protocols import snippets

    version, path = context.find_to_look_at(reference)
    manifest = read_manifest(path, verify=False)
    example = None
    if EXAMPLE in manifest.files:
        example = columns_of(read_file(path, manifest, EXAMPLE), manifest.signature.inputs)
    serving = chosen.serving
    host = url_host(serving.host)
    is_tls = bool(serving.tls_certificate)
    http_url = f"{'https' if is_tls else 'http'}://{host}:{serving.port or _PORT}"
    grpc = f"{host}:{serving.grpc_port if serving.grpc_port > 0 else _GRPC_PORT}"
    if url and protocol == "grpc":
        grpc, is_tls = _grpc_place(url, is_tls=is_tls)
    elif url:
        http_url, is_tls = url.rstrip("/"), url.lower().startswith("https://")
    is_exact = version is not None and str(Reference.parse(reference)) != version.model
    return snippets.SnippetRequest(
        model=manifest.name if version is None else version.model,
        version=str(version.number) if version is not None and is_exact else None,
        signature=manifest.signature,
        example=example,
        url=http_url,
        grpc=grpc,
        with_tls=is_tls,
        with_key=callers_need_keys(chosen) if key is None else key,
        with_certificate=is_tls and bool(serving.tls_client_authority),
        protocols=protocols_of(serving),
        parameters=parameters,
    )


def _grpc_place(url: str, *, is_tls: bool) -> tuple[str, bool]:
    """The `HOST:PORT` of an address, and whether it speaks TLS: `is_tls` where nothing says so."""
    from bascule.core import Invalid

    scheme, has_scheme, rest = url.rpartition("://")
    place = rest.rstrip("/")
    if scheme.lower() not in ("", "http", "https") or not place or "/" in place:
        raise Invalid(
            f"--url: {masked(url)!r} is no address for grpc",
            hint="give HOST:PORT, or http://HOST:PORT; https:// where the port speaks TLS",
        )
    return place, scheme.lower() == "https" if has_scheme else is_tls
