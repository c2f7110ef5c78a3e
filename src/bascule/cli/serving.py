"""The commands that serve: a server, the control process alone, and one command for all of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.building import check_bundle, pack_files, print_report
from bascule.cli.context import (
    AllowPickle,
    AsJson,
    Criteria,
    ServeOriginal,
    Target,
    Test,
    Train,
    complete_reference,
)
from bascule.cli.screen import note

if TYPE_CHECKING:
    from bascule.settings import Settings


_Port = Annotated[int | None, typer.Option(help="For predictions; 0: a free one.")]
_ControlPort = Annotated[
    int | None, typer.Option(help="For console, control API, health and docs; 0: a free one.")
]
_Workers = Annotated[int | None, typer.Option(help="Processes that share the port.")]


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="Registered models (gb, gb/1, gb@champion), bundles' folders (gb.bundle, or "
            "gb/1=gb.bundle to serve it as that version), or their places in "
            "buckets (gs://BUCKET/FOLDER, s3://BUCKET/FOLDER). "
            "Default: what the cloud has put into its container, or serving.default_model.",
            autocompletion=complete_reference,
            show_default=False,
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Default: 127.0.0.1")] = None,
    port: _Port = None,
    control_port: _ControlPort = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="For gRPC; 0: a free one; -1, the default: none.")
    ] = None,
    workers: _Workers = None,
    batching: Annotated[
        str | None,
        typer.Option(help="auto: waiting callers run together; never: each alone."),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="Give every answer a set or an interval that holds the truth so often."),
    ] = None,
    unix_socket: Annotated[
        Path | None, typer.Option(help="A path to answer predictions on as well.")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM; both ports then speak TLS alone.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM, without a password.")] = None,
    as_json: AsJson = False,
) -> None:
    """Serve models over HTTP until Ctrl-C or SIGTERM, then finish what is under way."""
    from bascule.cli.announcing import serve as run_server

    settings = context.settings(
        host=host, port=port, control_port=control_port, grpc_port=grpc_port, workers=workers,
        batching=batching, confidence=confidence, unix_socket=unix_socket,
        tls_certificate=tls_certificate, tls_key=tls_key,
    )  # fmt: skip
    run_server(models or _models_of_platform(settings), settings, as_json=as_json)


def control(
    host: Annotated[str | None, typer.Option(help="Default: 127.0.0.1")] = None,
    control_port: _ControlPort = None,
    as_json: AsJson = False,
) -> None:
    """Serve the control API alone: the registry, and no server beside it."""
    from bascule.cli.announcing import control as run_control

    run_control(context.settings(host=host, control_port=control_port), as_json=as_json)


def quickstart(
    model: Annotated[Path, typer.Argument(help="A fitted model: .skops or .onnx.")],
    name: Annotated[str, typer.Option(help="What the registry and requests call it.")],
    train: Train = None,
    test: Test = None,
    target: Target = None,
    criterion: Criteria = None,
    alias: Annotated[str, typer.Option(help="The alias to point to it.")] = "champion",
    port: _Port = None,
    control_port: _ControlPort = None,
    workers: _Workers = None,
    serve_original: ServeOriginal = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Pack, check, push, alias and serve a model, in one command."""
    from bascule.core import Scratch

    settings = context.settings(port=port, control_port=control_port, workers=workers)
    registry = context.local_registry("quickstart")
    with Scratch() as folder:
        bundle = pack_files(
            model, name=name, train=train, test=test, target=target, allow_pickle=allow_pickle,
            serve_original=serve_original, to=folder / name, quiet=False,
        )  # fmt: skip
        if criterion or settings.gates.criteria:
            report, problem = check_bundle(bundle, criterion, None)
            print_report(report)
            if problem is not None:
                raise problem
            if not report.passed:
                raise typer.Exit(1)
        else:
            note("no criteria in bascule.toml: the version is not checked")
        version = registry.push(bundle.path, by=context.user())
    registry.set_alias(
        version.model, alias, version.number, by=context.user(), reason="bascule quickstart"
    )
    note(f"pushed {version}, and {version.model}@{alias} points to it")
    _become_server(str(version), port=port, control_port=control_port, workers=workers)


def _become_server(reference: str, **options: int | None) -> None:
    """Replace this process by `bascule serve`: a supervisor has none of what packing loads."""
    stores = [f"--{name}={value}" for name, value in context.stores.items()]
    given = [f"--{k.replace('_', '-')}={v}" for k, v in options.items() if v is not None]
    words = ["-m", "bascule.cli", *stores, "serve", *given, reference]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *words])


def up(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL|ENDPOINT]...",
            help="What to serve: models (late, late/2, late@champion) and endpoints. "
            "Default: every endpoint, and what the alias production, or else champion, of each "
            "registered model names.",
            autocompletion=complete_reference,
            show_default=False,
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Default: 127.0.0.1")] = None,
    port: _Port = None,
    control_port: _ControlPort = None,
    workers: _Workers = None,
    as_json: AsJson = False,
) -> None:
    """Serve models and endpoints, with the control API and the console, and print its address."""
    from bascule.cli.announcing import serve as run_server

    settings = context.settings(host=host, port=port, control_port=control_port, workers=workers)
    run_server(names or None, settings, as_json=as_json)


def _models_of_platform(settings: Settings) -> list[str]:
    from bascule.platforms import look_for_bundles, model_of_platform
    from bascule.remotes import is_address

    if settings.serving.multi_model:
        return []  # callers say what is to be loaded
    default = settings.serving.default_model
    place = model_of_platform(os.environ, look_for_bundles, default=default)
    return [place if place == default or is_address(place) else str(Path(place).resolve())]
