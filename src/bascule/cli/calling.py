"""The command about calling a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli.screen import note, print_json, say

if TYPE_CHECKING:
    from bascule.registry import Version

Find = Callable[[str], "tuple[Version | None, Path]"]

_PORT, _GRPC_PORT = 8080, 8081


def register(app: typer.Typer, *, find: Find, settings: Any) -> None:
    """Put the command into `app`; what it needs of it is handed in."""

    @app.command()
    def snippet(
        bundle: Annotated[
            str,
            typer.Argument(
                metavar="BUNDLE",
                help="A bundle's folder, or a registered model: gb, gb/3, gb@champion.",
                show_default=False,
            ),
        ],
        face: Annotated[
            str,
            typer.Option(help="oip, tfserving, invocations, vertex, azureml or grpc."),
        ] = "oip",
        lang: Annotated[
            str, typer.Option(help="curl, python or js; over grpc python alone.")
        ] = "curl",
        url: Annotated[
            str | None,
            typer.Option(
                help="Where the server is; for grpc HOST:PORT. Default: where the settings say.",
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
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    ) -> None:
        """Print a few lines that ask a server for this model, with rows of its own."""
        from bascule.cli import snippets

        chosen = settings()
        asked = _asked(bundle, find, chosen, url, key=key)
        text = snippets.snippet(asked, face, lang)
        if as_json:
            print_json(
                {
                    "model": asked.model, "version": asked.version, "face": face, "lang": lang,
                    "url": asked.grpc if face == "grpc" else asked.url,
                    "key": snippets.KEY_VARIABLE if asked.with_key else None, "snippet": text,
                }
            )  # fmt: skip
            return
        say(text)
        if asked.with_key:
            note(f"put the key into {snippets.KEY_VARIABLE}: bascule keys create makes one")
        if face == "grpc" and url is None and chosen.serving.grpc_port < 0:
            note(f"the server must speak gRPC: bascule serve --grpc-port {_GRPC_PORT}")
        if face != "grpc" and chosen.serving.faces and face not in chosen.serving.faces:
            note(f"serving.faces leaves {face} out: a server with these settings does not speak it")


def _asked(reference: str, find: Find, chosen: Any, url: str | None, *, key: bool | None) -> Any:
    from bascule.app import callers_need_keys, faces_of
    from bascule.bundle import format as disk
    from bascule.bundle.examples import columns_of
    from bascule.bundle.manifest import EXAMPLE
    from bascule.cli.server import url_host
    from bascule.cli.snippets import Asked
    from bascule.core.names import Reference

    version, path = find(reference)
    manifest = disk.read_manifest(path, verify=False)
    example = None
    if EXAMPLE in manifest.files:
        example = columns_of(disk.read_file(path, manifest, EXAMPLE), manifest.signature.inputs)
    serving = chosen.serving
    host = url_host(serving.host)
    scheme = "https" if serving.tls_certificate else "http"
    grpc_port = serving.grpc_port if serving.grpc_port > 0 else _GRPC_PORT
    is_exact = version is not None and str(Reference.parse(reference)) != version.model
    return Asked(
        model=manifest.name if version is None else version.model,
        version=str(version.number) if version is not None and is_exact else None,
        signature=manifest.signature,
        example=example,
        url=(url or f"{scheme}://{host}:{serving.port or _PORT}").rstrip("/"),
        grpc=url or f"{host}:{grpc_port}",
        with_key=callers_need_keys(chosen) if key is None else key,
        faces=faces_of(serving),
    )
