"""What commands share: settings, the registry, who calls, references, and options.

Each function opens what it needs when a command runs; importing this imports typer alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.bundle.disk import Statement
    from bascule.endpoints import EndpointBook
    from bascule.operations import Remote
    from bascule.registry import Keys, ModelRegistry, Registry, Version
    from bascule.release.rollouts import RolloutBook
    from bascule.settings import Settings
    from bascule_client.control import ControlClient

stores: dict[str, str] = {}
"""What the options before the command say of where the registry is: store, objects, server."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the history.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option(help="Of another extra output: NAME=VALUE; may be repeated."),
]
Criteria = Annotated[
    list[str] | None,
    typer.Option(
        "--criterion",
        "-c",
        help="A requirement, such as 'roc_auc >= 0.8'; may be repeated. "
        "Default: gates.criteria of bascule.toml.",
        show_default=False,
    ),
]
Train = Annotated[
    Path | None,
    typer.Option(help="The training rows (.parquet .csv .jsonl .feather .npy .npz)."),
]
Test = Annotated[Path | None, typer.Option(help="Held-out rows, with their truth.")]
Attributes = Annotated[
    Path | None,
    typer.Option(help="A table of protected attributes that the model does not take."),
]
AttributeId = Annotated[
    str | None,
    typer.Option("--id", help="The column of ids that joins --attributes to the rows."),
]
Calibration = Annotated[
    Path | None,
    typer.Option(help="Rows to calibrate on, with their truth. Default: the held-out rows."),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        show_default=False,
        help="The column of the tables that holds the truth; repeat it for several outputs.",
    ),
]
PrivateKey = Annotated[Path, typer.Option(help="The private key: PEM, on a curve of NIST.")]
KeyPassword = Annotated[
    str | None,
    typer.Option(
        envvar="BASCULE_KEY_PASSWORD", help="Of the key, if it has one.", show_default=False
    ),
]
PublicKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        help="A public key that counts; may be repeated. Default: security.required_keys of "
        "bascule.toml.",
        show_default=False,
    ),
]
AllowPickle = Annotated[
    bool, typer.Option(help="Load a .pkl or .joblib file, which runs whatever code it holds.")
]
ServeOriginal = Annotated[
    bool, typer.Option(help="Serve the original, slower, where the model cannot be compiled.")
]


def complete_reference(incomplete: str) -> list[str]:
    """References that the registry holds, for the shell."""
    from bascule.core import BasculeError

    try:
        models = registry().models()
    except BasculeError:
        return []
    known = [
        reference
        for model in models
        for reference in (
            model.name,
            *(f"{model.name}/{number}" for number in range(1, model.versions + 1)),
            *(f"{model.name}@{alias}" for alias in model.aliases),
        )
    ]
    return [reference for reference in known if reference.startswith(incomplete)]


Ref = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model: gb (its newest good version), gb/3 or gb@champion.",
        autocompletion=complete_reference,
        show_default=False,
    ),
]
RefOrPath = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE",
        help="A bundle's folder, or a registered model: gb, gb/3, gb@champion.",
        autocompletion=complete_reference,
        show_default=False,
    ),
]


def group_of(
    about: str, *commands: Callable[..., None], **named: Callable[..., None]
) -> typer.Typer:
    """A group of commands, and of those that are `named` otherwise than their functions."""
    group = typer.Typer(help=about, no_args_is_help=True)
    for command in commands:
        group.command()(command)
    for name, command in named.items():
        group.command(name)(command)
    return group


def settings(**given: Any) -> Settings:
    """The settings, with what the command line says about serving in front."""
    from bascule.settings import load_settings

    places = {name: value for name, value in stores.items() if name != "server"}
    return load_settings(serving={k: v for k, v in given.items() if v is not None}, registry=places)


def control_client(*, key: str = "", timeout_s: float = 180.0) -> ControlClient:
    """The control API of `--server`, with the key of `BASCULE_KEY`."""
    from bascule_client.control import ControlClient

    return ControlClient(
        stores["server"], key=key or os.environ.get("BASCULE_KEY", ""), timeout_s=timeout_s,
        hint="check --server (or BASCULE_SERVER); bascule control serves a registry",
    )  # fmt: skip


def remote() -> Remote:
    """Asks the operations of `--server`."""
    from bascule.operations import Remote

    return Remote(control_client())


def is_remote() -> bool:
    """Whether the registry is that of a server."""
    return "server" in stores


def registry() -> ModelRegistry:
    """The registry of the settings, or of `--server`."""
    if not is_remote():
        return local_registry("")
    from bascule.registry import RemoteRegistry

    chosen = settings().security
    return RemoteRegistry(
        control_client(),
        required_keys=chosen.required_keys,
        required_claims=chosen.required_claims,
    )


def local_registry(command: str) -> Registry:
    """The registry of the settings, for a command that works on no other."""
    from bascule.app import open_registry
    from bascule.core import Invalid

    if command and is_remote():
        raise Invalid(
            f"bascule {command} does not work over --server",
            hint="run it where the registry is, without --server and BASCULE_SERVER",
        )
    return open_registry(settings())


def local_settings(command: str) -> Settings:
    """The settings, for a command that works on no home but this one."""
    local_registry(command)
    return settings()


def record(
    command: str, bundle: Bundle, version: Version | None, kind: str, body: Mapping[str, Any]
) -> None:
    """Add a statement where the bundle is kept: to its folder, or its version in the registry."""
    add = bundle.add_statement
    if version is not None:
        add = partial(local_registry(command).add_statement, version)
    add(kind, body, at=datetime.now(UTC), by=user())


def find(reference: str) -> tuple[Version | None, Path]:
    """A bundle for use, by its folder, or by its name in the registry (then with its version)."""
    if is_path(reference):
        return None, Path(reference)
    opened, version = _registered(reference)
    return version, opened.path(version)


def find_to_look_at(reference: str) -> tuple[Version | None, Path]:
    """The same without a signature check: the result is only displayed."""
    if is_path(reference):
        return None, Path(reference)
    opened, version = _registered(reference)
    return version, opened.path_to_look_at(version)


def _registered(reference: str) -> tuple[ModelRegistry, Version]:
    from bascule.control import registered

    return registered(registry, reference)


def is_path(reference: str) -> bool:
    """Whether a reference is meant as a folder; see `control.references.is_path`."""
    from bascule.control import references

    return references.is_path(reference)


def keys() -> Keys:
    """The keys of callers, where the settings keep the catalogue, or of `--server`."""
    if is_remote():
        from bascule.registry import RemoteKeys

        return RemoteKeys(control_client())
    from bascule.app import open_keys

    return open_keys(settings())


def endpoints() -> EndpointBook:
    """The endpoints of the settings' catalogue, or of `--server`."""
    if is_remote():
        from bascule.endpoints import RemoteEndpoints

        return RemoteEndpoints(control_client())
    from bascule.app import open_endpoints

    return open_endpoints(settings())


def rollouts() -> RolloutBook:
    """The rollouts of the settings' catalogue, or of `--server`."""
    if is_remote():
        from bascule.release.rollouts import RemoteRollouts

        return RemoteRollouts(control_client())
    from bascule.app import open_rollouts

    return open_rollouts(settings())


def user() -> str:
    """The name of the caller, for histories."""
    from bascule.core import user_name

    return user_name()


def statements(version: Version) -> list[Statement]:
    """What is said of a version; of verdicts those that count, the one that decides last."""
    opened = registry()
    said = [one for one in opened.statements(version) if one.kind != "gates"]
    return said + [check.statement for check in opened.checks(version)]
