"""The commands that make bundles: pack, check, rebuild."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import (
    AllowPickle,
    AsJson,
    AttributeId,
    Attributes,
    Calibration,
    Criteria,
    RefOrPath,
    ServeOriginal,
    Target,
    Test,
    Train,
)
from bascule.cli.screen import (
    error_json,
    note,
    print_blocks,
    print_either,
    print_json,
    print_table,
    say,
    short,
    stages,
)
from bascule.core import Invalid

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.core import BasculeError, Columns
    from bascule.packing import Rebuilt
    from bascule.registry import Version
    from bascule.release import GateReport


def pack(
    model: Annotated[
        Path,
        typer.Argument(
            help="A fitted model: .skops, .onnx, .gguf, a folder of transformers; code of yours: "
            "my_model.py:Model, or my_package:Model for a folder; or a .toml file that describes a "
            "composition of models, or a model that writes texts."
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
    outliers: Annotated[
        bool, typer.Option(help="Keep what scores how unlike the training rows a row is.")
    ] = True,
    explain: Annotated[
        bool, typer.Option(help="Keep what explains answers by what each column adds.")
    ] = True,
    background: Annotated[
        int,
        typer.Option(
            min=0, help="Explain over so many training rows. 0: over their shares in the trees."
        ),
    ] = 0,
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
    privacy: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a training by DP-SGD: noise_multiplier=S, sample_rate=Q, steps=N, delta=D; "
            "all four.",
            show_default=False,
        ),
    ] = None,
    features: Annotated[
        str,
        typer.Option(help="A feature store that knows inputs: FEAST_REPOSITORY#SERVICE."),
    ] = "",
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
        typer.Option(
            help="Of code of yours: classification, regression, ranking, survival or other (the "
            "default)."
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Of code of yours, a classifier: a class, in the order of the probabilities; "
            "may be repeated. 0 is a number, and '\"0\"' is a text.",
            show_default=False,
        ),
    ] = None,
    code: Annotated[
        list[str] | None,
        typer.Option(
            help="A file or package of your own that a pipeline in a .pkl or .joblib file needs, "
            "or an installed package, by name; may be repeated. The bundle keeps the sources.",
            show_default=False,
        ),
    ] = None,
    serve_original: ServeOriginal = False,
    allow_non_finite: Annotated[
        bool, typer.Option(help="NaN and infinite numbers are answers of this model.")
    ] = False,
    allow_pickle: AllowPickle = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a bundle that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a fitted model into a bundle: compiled, proven equal, measured, sealed."""
    from bascule.packing import CodeOptions

    made = pack_files(
        model, name=name, train=train, test=test, calibration=calibration, target=target, to=to,
        tolerance=tolerance, keep_test=keep_test, baseline=baseline, outliers=outliers,
        explain=explain and (background or True), measure=measure, description=description,
        lineage=lineage or (), privacy=_privacy(privacy), features=features,
        serve_original=serve_original,
        allow_non_finite=allow_non_finite, allow_pickle=allow_pickle, code=code or (),
        options_of_code=CodeOptions(file or (), require or (), task, label or ()),
        overwrite=overwrite, quiet=as_json,
    )  # fmt: skip
    serves_original = made.manifest.serves == "original"
    if serves_original and made.parity is not None and not made.parity.passed:
        note(f"warning: the original is what answers, slower: {made.parity.reason}")
    print_either(bundle_json(made), str(made.path), as_json=as_json)


def _privacy(pairs: list[str] | None) -> dict[str, str] | None:
    return None if pairs is None else dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def pack_files(model: Path, *, quiet: bool, **options: Any) -> Bundle:
    """See `app.pack_files`; shows its stages."""
    from bascule.api import load
    from bascule.app import pack_files as packed

    context.settings()  # which may allow upstreams
    with stages(quiet=quiet) as tell:
        return packed(model, progress=tell, open_model=load, **options)


def bundle_json(bundle: Bundle) -> dict[str, Any]:
    return {
        "path": str(bundle.path),
        "name": bundle.name,
        "digest": bundle.digest,
        "signature": bundle.signature.to_json(),
        "serves": bundle.manifest.serves,
        "parity": bundle.parity.to_json() if bundle.parity else None,
        "cost": bundle.cost.to_json() if bundle.cost else None,
    }


def check(
    bundle: RefOrPath,
    criterion: Criteria = None,
    test: Test = None,
    target: Target = None,
    attributes: Attributes = None,
    id_column: AttributeId = None,
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
    from bascule.cli.exit_codes import exit_code
    from bascule.core import writing
    from bascule.release import FORMS, parse_output

    outputs = [parse_output(text) for text in output or ()]
    if not context.is_path(bundle):
        context.local_registry("check")
    version, path = context.find(bundle)
    held_out, joined = read_test(test, target, attributes, id_column)
    with stages(quiet=as_json) as tell:
        tell(f"checking {bundle}")
        report, problem = check_bundle(load(path), criterion, version, held_out, joined)
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
        print_report(report)
    if problem is not None:
        if as_json:
            raise typer.Exit(exit_code(problem))
        raise problem
    if not report.passed:
        raise typer.Exit(1)


def read_test(
    test: Path | None, target: list[str] | None, attributes: Path | None, column: str | None
) -> tuple[Any, Columns | None]:
    """The rows of --test with their truth, and what --attributes has of them.

    Raises:
        Invalid: Attributes come without rows that have the column of ids.
    """
    from bascule.batch import read_rows, split_truth
    from bascule.release import join_attributes

    if attributes is not None and (test is None or not column):
        raise Invalid(
            "--attributes are joined to the rows of --test by the column of --id",
            hint="give all three: the rows in a bundle have no ids",
        )
    if test is None:
        return None, None
    rows = read_rows(test, "--test table")
    joined = None
    if attributes is not None and column:
        if column not in getattr(rows, "column_names", ()):
            raise Invalid(f"--test table {test.name} has no column {column!r}", hint="see --id")
        ids = rows.column(column).to_numpy(zero_copy_only=False)
        joined = join_attributes(ids, attributes_table(attributes, column), column)
        rows = rows.drop_columns([column])
    return split_truth(rows, target, f"--test table {test.name}", required=True), joined


def attributes_table(file: Path, column: str | None) -> Any:
    from bascule.batch import read_rows

    table = read_rows(file, "--attributes")
    if not column or not hasattr(table, "column_names"):
        raise Invalid("--attributes is a table with a column of ids", hint="name it with --id")
    return table


def check_bundle(
    bundle: Bundle,
    criteria: list[str] | None,
    version: Version | None,
    test: Any = None,
    attributes: Columns | None = None,
) -> tuple[GateReport, BasculeError | None]:
    from bascule.app import open_judge
    from bascule.release import check_and_record

    configured = context.settings().gates.criteria
    registry = context.local_registry("check") if version else context.registry()
    return check_and_record(
        bundle, criteria or configured, registry, version, configured=configured,
        test=test, attributes=attributes, now=datetime.now(UTC), by=context.user(),
        find_judge=partial(open_judge, context.settings()),
    )  # fmt: skip


def print_report(report: GateReport) -> None:
    from bascule.bundle import gates_table

    print_blocks(gates_table([result.to_json() for result in report.results]))
    say("passed" if report.passed else f"failed: {len(report.failures)} of {len(report.results)}")
    if report.unjudged:
        others = ", ".join(map(repr, report.unjudged))
        note(
            f"a trial, which changes no verdict: it leaves out {others} of [gates] criteria; "
            "bascule check without -c judges all of them"
        )


def rebuild(
    bundle: RefOrPath,
    train: Annotated[
        Path | None, typer.Option(help="The training rows, as they were handed to pack.")
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(help="The held-out rows, where the bundle does not hold them."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="The rows that it was calibrated on, where they were of their own."),
    ] = None,
    target: Target = None,
    to: Annotated[
        Path | None, typer.Option(help="Keep what was rebuilt. Default: it is compared only.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pack a bundle again from what is recorded, and compare; exit code 1 if it differs."""
    from bascule.app import read_sets
    from bascule.packing import rebuild as rebuild_bundle

    version, path = context.find(bundle)
    files = {"train": train, "test": test, "calibration": calibration}
    sets = read_sets(files, target, lambda _: False)
    with stages(quiet=as_json) as tell:
        made = rebuild_bundle(
            path, to=to, statements=context.statements(version) if version else None,
            progress=tell, **sets,
        )  # fmt: skip
    _print_rebuilt(made, to, as_json=as_json)
    if not made.same:
        raise typer.Exit(1)


def _print_rebuilt(made: Rebuilt, to: Path | None, *, as_json: bool) -> None:
    if as_json:
        print_json(made.to_json())
        return
    if made.same:
        say(f"the same bundle: {made.packed}")
    else:
        rows = [
            (one.what, _word(one.packed), _word(one.rebuilt), one.why) for one in made.differences
        ]
        print_table(("what", "packed", "rebuilt", "known to be different"), rows)
        say(f"another bundle: {made.rebuilt[:19]}, and packed was {made.packed[:19]}")
    if to is not None:
        note(f"it is at {to}")


def _word(value: str) -> str:
    return short(value) if value.startswith("sha256:") else value
