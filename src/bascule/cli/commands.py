"""The commands. Each is words to one or two calls; what they import they import when they run."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import calling, keys, origins, trust
from bascule.cli.registering import add_commands as add_registry_commands
from bascule.cli.running import add_commands as add_running_commands
from bascule.cli.screen import error_json, note, print_json, print_table, say, stages, when

if TYPE_CHECKING:
    from bascule.bundle import Bundle, Statement
    from bascule.bundle.model_files import CodeOptions
    from bascule.core.errors import BasculeError
    from bascule.registry import Registry, Version
    from bascule.registry.keys import CatalogueKeys
    from bascule.release import GateReport
    from bascule.settings import Settings

app = typer.Typer(
    name="bascule",
    help="From a fitted model to a proven, gated, registered and served one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_HERE = Path()
_stores: dict[str, str] = {}  # what the options before the command say of where the registry is

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Criteria = Annotated[
    list[str] | None,
    typer.Option(
        "--criterion",
        "-c",
        help="A requirement, such as 'roc_auc >= 0.8'; may be repeated. "
        "Default: [gates] criteria of bascule.toml.",
        show_default=False,
    ),
]
Train = Annotated[
    Path | None,
    typer.Option(help="The training rows (.parquet .csv .jsonl .feather .npy .npz)."),
]
Test = Annotated[Path | None, typer.Option(help="Held-out rows, with their truth.")]
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
AllowPickle = Annotated[
    bool, typer.Option(help="Load a .pkl or .joblib file, which runs whatever code it holds.")
]
ServeOriginal = Annotated[
    bool, typer.Option(help="Serve the original, slower, where the model cannot be compiled.")
]


def _complete_reference(incomplete: str) -> list[str]:
    """References that the registry holds, for the shell."""
    from bascule.core.errors import BasculeError

    try:
        models = _registry().models()
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
        autocompletion=_complete_reference,
        show_default=False,
    ),
]
RefOrPath = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE",
        help="A bundle's folder, or a registered model: gb, gb/3, gb@champion.",
        autocompletion=_complete_reference,
        show_default=False,
    ),
]


# -- packing and checking --


@app.command()
def pack(
    model: Annotated[
        Path,
        typer.Argument(
            help="A fitted model: .skops or .onnx; or code of yours: my_model.py:Model, or "
            "my_package:Model for a folder."
        ),
    ],
    name: Annotated[str, typer.Option(help="What the registry and requests call it.")],
    train: Train = None,
    test: Test = None,
    calibration: Calibration = None,
    target: Target = None,
    to: Annotated[
        Path | None, typer.Option(help="The folder to make. Default: NAME.bundle")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="The largest difference from the original that is allowed.")
    ] = 1e-5,
    keep_test: Annotated[
        bool, typer.Option(help="Keep the held-out rows in the bundle, for gates to use.")
    ] = True,
    baseline: Annotated[
        bool, typer.Option(help="Keep a profile of the training rows and of the answers.")
    ] = True,
    measure: Annotated[
        bool, typer.Option(help="Time the programs and measure memory, for the cost statement.")
    ] = True,
    description: Annotated[str, typer.Option(help="A sentence for the card.")] = "",
    lineage: Annotated[
        list[str] | None,
        typer.Option(
            help="Where it came from: mlflow:RUN, mlflow:RUN@URI or dvc:PATH; may be repeated.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            help="Of code of yours: a file that it loads, PATH or NAME=PATH; may be repeated.",
            show_default=False,
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="Of code of yours: what it needs from the package index, such as "
            "'scipy==1.16.3'; may be repeated.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Of code of yours: classification, regression or other (the default)."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Of code of yours, a classifier: a class, in the order of the probabilities; "
            "may be repeated. 0 is a number, and '\"0\"' is a text.",
            show_default=False,
        ),
    ] = None,
    serve_original: ServeOriginal = False,
    allow_pickle: AllowPickle = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a bundle that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a fitted model into a bundle: compiled, proven equal, measured, sealed."""
    from bascule.bundle.model_files import CodeOptions

    made = _pack_files(
        model, name=name, train=train, test=test, calibration=calibration, target=target, to=to,
        tolerance=tolerance, keep_test=keep_test, baseline=baseline, measure=measure,
        description=description, lineage=lineage or (), serve_original=serve_original,
        allow_pickle=allow_pickle, code=CodeOptions(file or (), require or (), task, label or ()),
        overwrite=overwrite, quiet=as_json,
    )  # fmt: skip
    if made.manifest.serves == "original" and made.parity is not None:
        note(f"warning: the original is what answers, slower: {made.parity.reason}")
    if as_json:
        print_json(_bundle_json(made))
    else:
        say(str(made.path))


def _pack_files(
    model: Path,
    *,
    name: str,
    train: Path | None,
    test: Path | None,
    target: list[str] | None,
    allow_pickle: bool,
    quiet: bool,
    calibration: Path | None = None,
    code: CodeOptions | None = None,
    **options: Any,
) -> Bundle:
    from bascule.bundle import pack as pack_model
    from bascule.bundle.model_files import read_model
    from bascule.bundle.table_files import as_trained, read_rows, split_truth

    with stages(quiet=quiet) as tell:
        fitted = read_model(model, allow_pickle=allow_pickle, code=code)
        sets: dict[str, Any] = {}
        # Training rows may come without their truth, if held-out ones show that --target is right.
        is_told = bool(target) and test is None and calibration is None
        for what, path in (("train", train), ("test", test), ("calibration", calibration)):
            if path is not None:
                rows = read_rows(path, f"--{what} table")
                inputs, truth = split_truth(
                    rows, target, f"--{what} table {path.name}", required=what != "train" or is_told
                )
                inputs = as_trained(fitted, inputs)
                sets[what] = inputs if truth is None else (inputs, truth)
        return pack_model(fitted, name=name, progress=tell, **sets, **options)


def _bundle_json(bundle: Bundle) -> dict[str, Any]:
    return {
        "path": str(bundle.path),
        "name": bundle.name,
        "digest": bundle.digest,
        "signature": bundle.signature.to_json(),
        "serves": bundle.manifest.serves,
        "parity": bundle.parity.to_json() if bundle.parity else None,
        "cost": bundle.cost.to_json() if bundle.cost else None,
    }


@app.command()
def check(
    bundle: RefOrPath,
    criterion: Criteria = None,
    test: Test = None,
    target: Target = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            show_default=False,
            help="Write the report: json:FILE, junit:FILE or markdown:FILE; may be repeated.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a bundle against the criteria; exit code 1 if one is not met."""
    from bascule.bundle import load
    from bascule.bundle.table_files import read_rows, split_truth
    from bascule.cli import exit_code
    from bascule.core.errors import Invalid
    from bascule.core.files import writing
    from bascule.release.reports import FORMS, parse_output

    outputs = [parse_output(text) for text in output or ()]
    version, path = _find(bundle)
    held_out = None
    if test is not None:
        rows = read_rows(test, "--test table")
        held_out = split_truth(rows, target, f"--test table {test.name}", required=True)
    with stages(quiet=as_json) as tell:
        tell(f"checking {bundle}")
        report, problem = _check(load(path), criterion, version, held_out)
    try:
        for form, file in outputs:
            with writing(f"--output {form}:{file}"):
                file.write_text(FORMS[form](report, bundle), encoding="utf-8")
    except Invalid as unwritten:
        problem = problem or unwritten
    if as_json:
        told = {} if problem is None else error_json(problem)
        print_json(report.to_json() | told)
    else:
        _print_report(report)
    if problem is not None:
        if as_json:
            raise typer.Exit(exit_code(problem))
        raise problem
    if not report.passed:
        raise typer.Exit(1)


def _check(
    bundle: Bundle, criteria: list[str] | None, version: Version | None, test: Any = None
) -> tuple[GateReport, BasculeError | None]:
    from bascule.release.checking import check_and_record

    wanted = criteria or list(_settings().gates.criteria)
    return check_and_record(
        bundle, wanted, _registry(), version, test=test, now=datetime.now(UTC), by=_user()
    )


def _print_report(report: GateReport) -> None:
    rows = [
        (
            str(result.criterion),
            "-" if result.value is None else f"{result.value:.6g}",
            "passed" if result.passed else "FAILED",
            result.reason,
        )
        for result in report.results
    ]
    print_table(("criterion", "value", "verdict", "reason"), rows, right=("value",))
    say("passed" if report.passed else f"failed: {len(report.failures)} of {len(report.results)}")


# -- the registry --


@app.command()
def push(
    path: Annotated[Path, typer.Argument(help="A bundle's folder.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Put a bundle into the registry; prints the version, such as gb/1."""
    registry = _registry()
    version = registry.push(path, by=_user())
    if as_json:
        print_json(_version_json(version, registry))
    else:
        say(str(version))


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models of the registry."""
    found = _registry().models()
    if as_json:
        print_json(
            [
                {
                    "name": model.name,
                    "versions": model.versions,
                    "newest": _version_json(model.newest),
                    "aliases": {name: alias.number for name, alias in model.aliases.items()},
                }
                for model in found
            ]
        )
        return
    rows = [
        (
            model.name,
            str(model.newest.number),
            model.newest.gates,
            ", ".join(f"{name} -> {alias.number}" for name, alias in model.aliases.items()) or "-",
            when(model.newest.pushed_at),
        )
        for model in found
    ]
    print_table(("model", "newest", "gates", "aliases", "pushed"), rows, right=("newest",))


@app.command()
def show(model: RefOrPath, as_json: AsJson = False) -> None:
    """Show one version: what it takes, how equal and how fast it is, what its gates said."""
    from bascule.cli.showing import print_bundle, showing_json

    version, path = _find_to_look_at(model)
    from bascule.bundle import load

    bundle = load(path)
    registry = _registry() if version else None
    tags = registry.tags(version) if registry and version else {}
    statements = registry.statements(version) if registry and version else bundle.statements()
    others = registry.versions(version.model) if registry and version else []
    if as_json:
        shown = showing_json(bundle, version, statements)
        print_json(shown | {"tags": tags, "bundle": _bundle_json(bundle)})
    else:
        counting = bundle.statements() if version is None else _statements(version)
        print_bundle(bundle, version, counting, others)
        if tags:
            say("tags: " + " ".join(f"{key}={value}" for key, value in tags.items()))


@app.command()
def history(model: Ref, as_json: AsJson = False) -> None:
    """List what happened to a model, the latest first."""
    from bascule.cli.showing import event_json, event_row
    from bascule.core.names import Reference

    name = Reference.parse(model).model
    events = sorted(_registry().history(name), key=lambda event: event.at, reverse=True)
    if as_json:
        print_json([event_json(event) for event in events])
    else:
        print_table(("when", "what", "by", "why"), map(event_row, events))


@app.command()
def alias(
    version: Ref,
    name: Annotated[
        str | None, typer.Argument(help="The alias, such as champion.", show_default=False)
    ] = None,
    drop: Annotated[bool, typer.Option(help="Drop the alias: bascule alias gb@old --drop")] = False,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "",
    as_json: AsJson = False,
) -> None:
    """Point an alias to a version: bascule alias gb/3 champion."""
    from bascule.cli.showing import event_json
    from bascule.core.errors import Invalid
    from bascule.core.names import Reference

    registry, reference = _registry(), Reference.parse(version)
    if drop:
        dropped = reference.alias or name
        if dropped is None:
            raise Invalid("which alias?", hint="bascule alias gb@old --drop")
        event = registry.drop_alias(reference.model, dropped, by=_user(), reason=reason)
        line = f"{reference.model}@{dropped} dropped"
    elif name is None:
        raise Invalid("the alias is missing", hint="bascule alias gb/3 champion")
    else:
        target = registry.resolve(reference)
        event = registry.set_alias(target.model, name, target.number, by=_user(), reason=reason)
        line = f"{target.model}@{name} -> {target}"
    if as_json:
        print_json(event_json(event))
    else:
        say(line)


# -- answering --


@app.command()
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="Registered models (gb, gb/1, gb@champion), bundles' folders, or their places in "
            "buckets (gs://BUCKET/FOLDER, s3://BUCKET/FOLDER). "
            "Default: what the cloud has put into its container.",
            autocompletion=_complete_reference,
            show_default=False,
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Default: 127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="For predictions; 0: a free one.")] = None,
    control_port: Annotated[
        int | None, typer.Option(help="For registry, health and docs; 0: a free one.")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="For gRPC; 0: a free one; -1, the default: none.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the port.")] = None,
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
    from bascule.cli.server import run_server

    settings = _settings(
        host=host, port=port, control_port=control_port, grpc_port=grpc_port, workers=workers,
        batching=batching, confidence=confidence, unix_socket=unix_socket,
        tls_certificate=tls_certificate, tls_key=tls_key,
    )  # fmt: skip
    run_server(models or _models_of_platform(settings), settings, as_json=as_json)


@app.command()
def control(
    host: Annotated[str | None, typer.Option(help="Default: 127.0.0.1")] = None,
    control_port: Annotated[
        int | None, typer.Option(help="For registry, health and docs; 0: a free one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve the control API alone: the registry, and no server beside it."""
    from bascule.cli.control import run_control

    run_control(_settings(host=host, control_port=control_port), as_json=as_json)


_Name = Annotated[str, typer.Option(help="What the registry and requests call it.")]
_AliasOfIt = Annotated[str, typer.Option(help="The alias to point to it.")]
_Port = Annotated[int | None, typer.Option(help="For predictions; 0: a free one.")]
_ControlPort = Annotated[int | None, typer.Option(help="For the control API; 0: a free one.")]
_Workers = Annotated[int | None, typer.Option(help="Processes that share the port.")]


@app.command()
def quickstart(
    model: Annotated[Path, typer.Argument(help="A fitted model: .skops or .onnx.")],
    name: _Name,
    train: Train = None,
    test: Test = None,
    target: Target = None,
    criterion: Criteria = None,
    alias: _AliasOfIt = "champion",
    port: _Port = None,
    control_port: _ControlPort = None,
    workers: _Workers = None,
    serve_original: ServeOriginal = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Pack, check, push, alias and serve a model, in one command."""
    from bascule.core.scratch import Scratch

    settings = _settings(port=port, control_port=control_port, workers=workers)
    registry = _registry()
    with Scratch() as folder:
        bundle = _pack_files(
            model, name=name, train=train, test=test, target=target, allow_pickle=allow_pickle,
            serve_original=serve_original, to=folder / name, quiet=False,
        )  # fmt: skip
        if criterion or settings.gates.criteria:
            report, problem = _check(bundle, criterion, None)
            _print_report(report)
            if problem is not None:
                raise problem
            if not report.passed:
                raise typer.Exit(1)
        else:
            note("no criteria in bascule.toml: the version is not checked")
        version = registry.push(bundle.path, by=_user())
    registry.set_alias(
        version.model, alias, version.number, by=_user(), reason="bascule quickstart"
    )
    note(f"pushed {version}, and {version.model}@{alias} points to it")
    _become_server(str(version), port=port, control_port=control_port, workers=workers)


def _become_server(reference: str, **options: int | None) -> None:
    """Replace this process by `bascule serve`: a supervisor has none of what packing loads."""
    stores = [f"--{name}={value}" for name, value in _stores.items()]
    given = [f"--{k.replace('_', '-')}={v}" for k, v in options.items() if v is not None]
    words = ["-m", "bascule.cli", *stores, "serve", *given, reference]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *words])


_OLD = {"hidden": True, "help": "Of bascule quickstart."}


@app.command()
def up(
    model: Annotated[Path | None, typer.Argument(hidden=True, show_default=False)] = None,
    host: Annotated[str | None, typer.Option(help="Default: 127.0.0.1")] = None,
    port: _Port = None,
    control_port: _ControlPort = None,
    workers: _Workers = None,
    as_json: AsJson = False,
    name: Annotated[str | None, typer.Option(**_OLD)] = None,
    train: Annotated[Path | None, typer.Option(**_OLD)] = None,
    test: Annotated[Path | None, typer.Option(**_OLD)] = None,
    target: Annotated[list[str] | None, typer.Option(**_OLD)] = None,
    criterion: Annotated[list[str] | None, typer.Option("--criterion", "-c", **_OLD)] = None,
    alias: Annotated[str, typer.Option(**_OLD)] = "champion",
    serve_original: Annotated[bool, typer.Option(**_OLD)] = False,
    allow_pickle: Annotated[bool, typer.Option(**_OLD)] = False,
) -> None:
    """Serve what the alias production, or else champion, of each registered model names."""
    from bascule.cli.server import run_server
    from bascule.core.errors import Invalid

    if model is None:
        settings = _settings(host=host, port=port, control_port=control_port, workers=workers)
        run_server(None, settings, as_json=as_json)
        return
    note("warning: bascule up MODEL is now bascule quickstart MODEL; this form goes with 0.3")
    if name is None:
        raise Invalid("--name is missing", hint=f"bascule quickstart {model} --name NAME")
    quickstart(
        model, name=name, train=train, test=test, target=target, criterion=criterion, alias=alias,
        port=port, control_port=control_port, workers=workers, serve_original=serve_original,
        allow_pickle=allow_pickle,
    )  # fmt: skip


@app.command()
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
    as_json: AsJson = False,
) -> None:
    """Answer the rows of a file here, without a server."""
    from bascule.bundle import load
    from bascule.bundle.table_files import (
        as_table,
        check_output,
        read_rows,
        split_truth,
        write_table,
    )
    from bascule.cli.showing import print_answers

    if output is not None:
        check_output(output)
    _, path = _find(bundle)
    loaded = load(path)
    rows, _ = split_truth(read_rows(data, "data"), None, "data", required=False)
    answer = loaded.predict(rows, confidence=confidence, conformal=conformal)
    table = as_table(answer, loaded.manifest)
    if output is not None:
        write_table(table, output)
        note(f"wrote {table.num_rows:,} rows to {output}")
    elif as_json:
        print_json(table.to_pylist())
    else:
        print_answers(table)


# -- about the machine --


@app.command()
def demo(
    keep: Annotated[bool, typer.Option(help="Leave the server running at the end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the whole life of a model on real flights: train, pack, check, push, serve, ask."""
    from bascule.demo import run_demo

    raise typer.Exit(run_demo(keep=keep, as_json=as_json))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: what is there, what is missing, and what to do about it."""
    from bascule.cli.doctor import examine

    findings = examine(_settings())
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        print_table(
            ("what", "state", "found", "next step"),
            [(one.what, one.state, one.found, one.hint or "-") for one in findings],
        )
    if any(one.state == "FAILED" for one in findings):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    store: Annotated[
        str | None, typer.Option(help="The catalogue: sqlite or postgresql://USER@HOST/NAME.")
    ] = None,
    objects: Annotated[
        str | None, typer.Option(help="The bundles: files, files:///FOLDER or s3://BUCKET/PREFIX.")
    ] = None,
) -> None:
    """From a fitted model to a proven, gated, registered and served one."""
    given = {"store": store, "objects": objects}
    _stores.clear()
    _stores.update({name: value for name, value in given.items() if value is not None})
    if version:
        from bascule.core.version import VERSION

        say(f"bascule {VERSION}")
        raise typer.Exit


# -- shared --


def _settings(**given: Any) -> Any:
    """The settings, with what the command line says about serving in front."""
    from bascule.settings import load_settings

    return load_settings(
        serving={k: v for k, v in given.items() if v is not None}, registry=_stores
    )


def _registry() -> Registry:
    from bascule.app import open_registry

    return open_registry(_settings())


def _find(reference: str) -> tuple[Version | None, Path]:
    """A bundle for use, by its folder, or by its name in the registry (then with its version)."""
    if _is_path(reference):
        return None, Path(reference)
    registry, version = _registered(reference)
    return version, registry.path(version)


def _find_to_look_at(reference: str) -> tuple[Version | None, Path]:
    """The same where nobody need vouch for it, because what it says is only shown."""
    if _is_path(reference):
        return None, Path(reference)
    registry, version = _registered(reference)
    return version, registry.path_to_look_at(version)


def _registered(reference: str) -> tuple[Registry, Version]:
    from bascule.control.finding import registered

    return registered(_registry, reference)


def _is_path(reference: str) -> bool:
    from bascule.control.finding import is_path

    return is_path(reference)


def _models_of_platform(settings: Settings) -> list[str]:
    from bascule.platforms import look_for_bundles, model_of_platform
    from bascule.remotes import is_address

    if settings.serving.multi_model:
        return []  # callers say what is to be loaded
    place = model_of_platform(os.environ, look_for_bundles)
    return [place if is_address(place) else str(Path(place).resolve())]


def _user() -> str:
    from bascule.bundle.lineage.provenance import user_name

    return user_name()


def _version_json(version: Version, registry: Registry | None = None) -> dict[str, Any]:
    made = {
        "model": version.model,
        "number": version.number,
        "digest": version.digest,
        "pushed_at": version.pushed_at.isoformat(),
        "pushed_by": version.pushed_by,
        "gates": version.gates,
        "retired": version.retired.reason if version.retired else None,
    }
    if registry is not None:
        made["path"] = str(registry.path_to_look_at(version))
    return made


add_running_commands(app, RefOrPath, _settings, _is_path)
add_registry_commands(app, Ref, _registry, _user)


def _statements(version: Version) -> list[Statement]:
    """What is said of a version; of verdicts those that count, the one that decides last."""
    registry = _registry()
    said = [one for one in registry.statements(version) if one.kind != "gates"]
    return said + [check.statement for check in registry.checks(version)]


trust.register(app, find=_find_to_look_at, settings=_settings, user=_user, statements=_statements)


def _keys() -> CatalogueKeys:
    from bascule.app import open_keys

    return open_keys(_settings())


keys.register(app, open_keys=_keys, user=_user)
origins.register(app, find=_find, statements=_statements)
calling.register(app, find=_find_to_look_at, settings=_settings)
