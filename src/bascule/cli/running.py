"""The commands that look at a running server and change what it serves, by its control API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import RefOrPath
from bascule.cli.screen import print_json, say

if TYPE_CHECKING:
    from bascule_client.control import ControlClient

_PATIENCE_S = 180.0
"""Longer than a server lets its workers take to load."""
_LOOK_PATIENCE_S = 10.0

_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document: what is served.")]
_Host = Annotated[str | None, typer.Option(help="Where the server is. Default: serving.host")]
_ControlPort = Annotated[
    int | None, typer.Option(help="Its control port. Default: serving.control_port")
]
_Key = Annotated[
    str,
    typer.Option(
        envvar="BASCULE_KEY",
        help="A key that allows it, where callers need keys: manage:MODEL, or read:* to look.",
        show_default=False,
    ),
]


def _load_as(role: str, bundle: str, host: str | None, port: int | None, key: str) -> Any:
    wanted = str(Path(bundle).expanduser().resolve()) if context.is_path(bundle) else bundle
    wish = {"reference": wanted, "role": role}
    return server_client(host, port, key).do("POST /api/v1/server/services", wish)["items"]


def load(
    bundle: RefOrPath,
    default: Annotated[
        bool, typer.Option("--default", help="Let it answer to the plain name, too.")
    ] = False,
    host: _Host = None,
    control_port: _ControlPort = None,
    key: _Key = "",
    as_json: _AsJson = False,
) -> None:
    """Load a version into a running server, beside those that it serves."""
    served = _load_as("default" if default else "beside", bundle, host, control_port, key)
    _show(served, as_json=as_json)


def swap(
    bundle: RefOrPath,
    host: _Host = None,
    control_port: _ControlPort = None,
    key: _Key = "",
    as_json: _AsJson = False,
) -> None:
    """Replace the default version of a model in a running server; no request is lost."""
    _show(_load_as("swap", bundle, host, control_port, key), as_json=as_json)


def unload(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A version that is served, gb/1, or gb if there is only one.",
            show_default=False,
        ),
    ],
    host: _Host = None,
    control_port: _ControlPort = None,
    key: _Key = "",
    as_json: _AsJson = False,
) -> None:
    """Unload a version from a running server; what it has under way is answered."""
    name, _, version = model.partition("/")
    served = server_client(host, control_port, key).do(
        "DELETE /api/v1/server/services/{model}", model=name, version=version or None
    )
    _show(served["items"], as_json=as_json)


def top(
    host: _Host = None,
    control_port: _ControlPort = None,
    key: _Key = "",
    every: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds from one look to the next.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and return.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: a document once, or a line a look.")
    ] = False,
) -> None:
    """Show what a running server does: requests, durations, queues, workers. Ctrl-C ends it."""
    from bascule.cli.top import show_load
    from bascule.control import operations
    from bascule.operations import Remote

    server = Remote(server_client(host, control_port, key, timeout_s=_LOOK_PATIENCE_S))
    show_load(lambda: server.ask(operations.LOAD), every_s=every, once=once, as_json=as_json)


def _show(served: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(served)
        return
    for one in served:
        say(f"{one['model']}/{one['version']}" + (" (default)" if one["is_default"] else ""))
    if not served:
        say("nothing is served")


def server_client(
    host: str | None, port: int | None, key: str, *, timeout_s: float = _PATIENCE_S
) -> ControlClient:
    """The control API of `--host` and `--control-port`, of `--server`, or of the settings."""
    from bascule.app import client_tls_of
    from bascule.cli.screen import url_host
    from bascule_client.control import ControlClient

    if context.is_remote() and host is None and port is None:
        return context.control_client(key=key, timeout_s=timeout_s)
    settings = context.settings(host=host, control_port=port)
    serving = settings.serving
    scheme = "https" if serving.tls_certificate else "http"
    return ControlClient(
        f"{scheme}://{url_host(serving.host)}:{serving.control_port}",
        key=key,
        timeout_s=timeout_s,
        tls=client_tls_of(settings),
        hint="start one with bascule serve, or say where it is: --host, --control-port; "
        "serving.tls_certificate must be the server's own",
    )
