"""Tells where a server, or a control process alone, is reached, for people and for programs."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from bascule.cli.screen import note, print_json, say, url_host
from bascule.cli.signing_in import address_of, local_address_of, show_link
from bascule.core import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bascule.serving.workers import Supervisor
    from bascule.settings import Settings


def serve(references: Sequence[str] | None, settings: Settings, *, as_json: bool) -> None:
    """Run a server in the foreground; see `run_server`."""
    from bascule.processes import run_server

    def on_stop() -> None:
        if not as_json:
            note("stopping: answering what is under way")

    run_server(references, settings, partial(announce, settings=settings, as_json=as_json), on_stop)


def control(settings: Settings, *, as_json: bool) -> None:
    """Run a control process alone in the foreground; see `run_control`."""
    from bascule.processes import run_control

    run_control(settings, partial(announce_control, settings=settings, as_json=as_json))


def announce_control(
    control_port: int, needs_keys: bool, path: str, *, settings: Settings, as_json: bool
) -> None:
    """Print where the control API alone is, for a person or as a JSON document."""
    url = local_address_of(settings, control_port)
    if as_json:
        callers = "keys" if needs_keys else "anybody"
        print_json({"control": url, "console": f"{url}/", "callers": callers})
        return
    say(f"control API at {url}/docs")
    say(f"console at {url}/")
    show_link(path and address_of(settings, control_port) + path)
    note("Ctrl-C stops it")


def announce(
    supervisor: Supervisor, control_port: int, path: str, *, settings: Settings, as_json: bool
) -> None:
    """Print what a server serves and where, for a person or as a JSON document."""
    scheme = "https" if settings.serving.tls_certificate else "http"
    host = url_host(supervisor.host)
    base = f"{scheme}://{host}"
    grpc = None if supervisor.grpc_port is None else f"{host}:{supervisor.grpc_port}"
    unix_socket = settings.serving.unix_socket
    with_keys = supervisor.keys_file is not None
    models = f"{base}:{supervisor.port}/v2/models"
    link = path and address_of(settings, control_port) + path
    served: list[dict[str, str | int]] = [
        {
            "model": service.model,
            "version": service.version,
            "infer": f"{models}/{service.model}"
            + ("" if supervisor.is_default(service) else f"/versions/{service.version}")
            + "/infer",
        }
        for service in supervisor.services
        if not service.is_planned
    ]
    served += [
        {
            "model": plan.endpoint,
            "version": plan.current.version.rpartition("/")[2],
            "infer": f"{models}/{plan.endpoint}/infer",
            "plan": plan.number,
        }
        for plan in supervisor.plans
    ]
    if as_json:
        print_json(
            {
                "serving": served,
                "predictions": f"{base}:{supervisor.port}",
                **({} if grpc is None else {"grpc": grpc}),
                "control": f"{base}:{control_port}",
                "console": f"{base}:{control_port}/",
                **({"sign_in": link} if link and sys.stdout.isatty() else {}),
                "callers": "keys" if with_keys else "anybody",
                "unix_socket": unix_socket or None,
            }
        )
        return
    for one in served:
        by_plan = f" by plan {one['plan']}" if "plan" in one else ""
        say(f"serving {one['model']}/{one['version']}{by_plan} at {one['infer']}")
    if not served:
        how = f"POST {base}:{supervisor.port}/models loads one"
        other = "deploy one in the console or with bascule deploy, or name one: bascule up MODEL"
        say(f"serving no model yet; {how if settings.serving.multi_model else other}")
    if grpc is not None:
        say(f"gRPC at {grpc}")
    workers = counted(len(supervisor.statuses()), "worker")
    say(f"{workers}; control API at {base}:{control_port}/docs")
    say(f"console at {base}:{control_port}/")
    show_link(link)
    if unix_socket:
        say(f"also at {unix_socket}")
    if with_keys:
        note("callers need a key: bascule keys create NAME --allow infer:MODEL")
    note("Ctrl-C stops it")
