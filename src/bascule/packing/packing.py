"""Pack: from a fitted model to a sealed bundle."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bascule.bundle import (
    Bundle,
    card,
    disk,
    is_ever_fastest,
    load,
    open_original,
    pinned,
    recombined,
    take,
)
from bascule.bundle.disk import Manifest, OriginalEntry, ProgramEntry, example_body, to_parquet
from bascule.bundle.explaining import EXPLAINING_KIND, IMPORTANCE_KIND
from bascule.bundle.features import Features, features_of
from bascule.bundle.originals import is_inspected, is_isolated, open_archive, retrieval
from bascule.bundle.programs import (
    COMPOSITION,
    MACHINE_CODE,
    TreesProgram,
    is_runnable,
    open_kind,
)
from bascule.bundle.statements import (
    CALIBRATION_KIND,
    PRIVACY_KIND,
    TRAINING_KIND,
    Cost,
    Parity,
    PrivacyClaim,
)
from bascule.core import (
    Columns,
    DType,
    Field,
    Invalid,
    ModelFailed,
    Program,
    Unavailable,
    Unconvertible,
    Untrusted,
    canonical_json,
    check_name,
    duration_words,
    user_name,
    writing,
)
from bascule.documents import progress_line
from bascule.packing import explaining
from bascule.packing.compilers import take_apart
from bascule.packing.explaining import measure_importances
from bascule.packing.flavors import flavor_of
from bascule.packing.given import (
    check_answers,
    check_explain,
    check_model,
    check_rows,
    check_tolerance,
)
from bascule.packing.imported import Compilation, Flavor, ImportedModel, Rows
from bascule.packing.lineage import provenance, trace
from bascule.packing.probing import LENGTHS, drawn
from bascule.packing.statements import (
    ComparedRows,
    adversarial,
    asking,
    calibrating,
    claimed_privacy,
    company,
    cost,
    jumps,
    outlying,
    parity,
    profiling,
    training,
)

Progress = Callable[[str], None]
_PROGRAM = "onnx"
_SERVED_AS_SAVED = (disk.GENERATION, "python", "transformers", retrieval.FORMAT)
_OF_ITS_OWN = (disk.GENERATION, retrieval.FORMAT)
"""Each row is answered on its own: drawn, or searched for."""
_PROGRAM_FILE = "programs/onnx.onnx"
_TREES_FILE = "programs/trees.npz"
_DRAWN_ROWS = 48
_SERVE_ORIGINAL = "pass serve_original=True (--serve-original) to serve the original, slower"


def pack(
    model: Any,
    *,
    name: str,
    train: Any = None,
    test: Any = None,
    calibration: Any = None,
    to: str | Path | None = None,
    tolerance: float = 1e-5,
    keep_test: bool = True,
    baseline: bool = True,
    outliers: bool = True,
    description: str = "",
    author: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    lineage: Sequence[str] = (),
    privacy: Any = None,
    features: str = "",
    federated: Mapping[str, Any] | None = None,
    code: str | Path | Sequence[str | Path] = (),
    serve_original: bool = False,
    allow_non_finite: bool = False,
    explain: bool | int = True,
    measure: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Turn a fitted model into a bundle: compiled, compared with the original, measured, sealed.

    The same model and rows give the same digest, wherever and whenever they are packed.

    Args:
        model: A fitted scikit-learn estimator or pipeline, a boosted model, a network of PyTorch
            or Keras, a `PythonModel`, or an ONNX model: its path, its bytes or a `ModelProto`.
        name: What the registry and requests call it.
        train: The rows that it was trained on: X, or (X, y). Any table or matrix. An ONNX model
            needs none.
        test: Held-out rows with their truth: (X, y). Parity is measured on them, or else on the
            training rows, and gates judge quality by them.
        calibration: Held-out rows with their truth, (X, y), that prediction sets and intervals
            are calibrated on; the `test` rows if None.
        to: The folder to make; `./NAME.bundle` if None.
        tolerance: The largest difference from the original at which a program may stand in for it.
        keep_test: Whether the bundle holds the held-out rows, for gates to use later.
        baseline: Whether the bundle holds a profile of the training rows and of the answers to
            the held-out ones. It shows some values: frequent ones, extremes, quantiles.
        outliers: Whether the bundle holds what scores how unlike the training rows a row is.
        description: One or two sentences for the card.
        author: Who packs it; the user's name if None.
        parameters: Facts about the training, beside the model's own settings.
        metrics: Figures from the training, for the card.
        lineage: Where it came from: `mlflow:RUN`, `mlflow:RUN@URI` or `dvc:PATH`; what is known
            there is recorded. See `packing.lineage`.
        privacy: Of a training with differential privacy: Opacus' `PrivacyEngine` and delta, as a
            pair; or a mapping of `noise_multiplier`, `sample_rate`, `steps` and `delta`. Gates ask
            for it by `epsilon <= 3`.
        features: The store that servers may look inputs up in, `STORE#SOURCE`: the folder of a
            Feast repository and a feature service. An input is the feature of its name.
        federated: Of a training on devices: its options and rounds. `train` then gives types and
            ranges alone, and the bundle says nothing of the rows that it was trained on.
        code: Files and packages with code of your own that a pipeline holds, and the names of
            installed packages whose estimators skops cannot keep: `code=["features.py",
            "category_encoders"]`. The bundle keeps the sources, and the model as a pickle that only
            a process of its own opens.
        serve_original: Whether to serve the original, slower, where the model cannot be compiled.
        allow_non_finite: Whether NaN and infinite numbers are answers of this model. Servers count
            them as failures otherwise, and a model that gives them to its own rows is refused.
        explain: Whether the bundle can explain its answers. With True, what is not known of a row
            follows the method: in trees, the shares of the training rows. With a number, it follows
            so many training rows, the background (interventional Shapley values).
        measure: Whether to time the programs and the original and measure memory. False leaves out
            the cost statement, and the bundle answers with its first program.
        overwrite: Whether to replace a bundle that is at `to`.
        progress: Called with a short sentence when a stage is done, such as `print`. If it has a
            method `step`, that is called with what is under way, and how much of it is done. If
            None, a pack of more than 2 s shows them in one line of the terminal, if there is one.

    Returns:
        The bundle as it was loaded again from disk.

    Raises:
        Invalid: The model or the rows are not what can be packed; the message says which. Or an
            answer to the rows is NaN or infinite, and `allow_non_finite` is False.
        Unconvertible: A step has no converter, and `serve_original` is False.
        Conflict: `to` exists, and may not be overwritten.
        NotFound: A run or file of `lineage` is not there.
        Refused: A file of `lineage` is not the one that its record speaks of.
    """
    check_name(name)
    check_tolerance(tolerance)
    check_model(model, train=train, test=test, calibration=calibration)
    check_explain(explain)
    request = Request(
        name=name,
        tolerance=tolerance,
        keep_test=keep_test,
        baseline=baseline,
        outliers=outliers,
        serve_original=serve_original,
        allow_non_finite=allow_non_finite,
        explain=explain,
        description=description,
        parameters=_json_values(parameters, "parameters"),
        federated=None if federated is None else _json_values(federated, "federated"),
        metrics=_json_values(metrics, "metrics"),
        lineage=[trace(source) for source in lineage],
        privacy=None if privacy is None else claimed_privacy(privacy),
        features=features,
        code=code,
    )
    rows = InputRows(train, test, calibration)
    place = Path(to) if to is not None else Path(f"{name}.bundle")
    with progress_line("pack") if progress is None else nullcontext(progress) as tell:
        request = replace(request, tell=tell)
        with disk.drafting(place, overwrite=overwrite) as draft:
            manifest = _fill(draft, model, rows, request, measure=measure, author=author)
        request.tell(f"sealed as {manifest.digest[:19]} at {place}")
        return load(place)


def _fill(
    draft: Path, model: Any, rows: InputRows, request: Request, *, measure: bool, author: str | None
) -> Manifest:
    """Write the bundle, its statements and its card."""
    sealed = seal(draft, model, rows, request)
    manifest, subject, choice = sealed.manifest, sealed.subject, sealed.choice
    said = [("parity", parity.to_json()) for parity in (choice.parity, *choice.others_parity)]
    if measure:
        measured = _measure(draft, manifest, subject, choice, request)
        request.tell(_costs(measured, manifest.serves))
        said.append(("cost", measured.to_json()))
    said.append(("provenance", _provenance(sealed, request)))
    said.append((CALIBRATION_KIND, sealed.calibration))
    if request.privacy is not None:
        said.append((PRIVACY_KIND, request.privacy.to_json()))
    if sealed.explaining:
        said.append((EXPLAINING_KIND, dict(sealed.explaining)))
    if measure and disk.EXPLAINING in manifest.files:
        cost_s = sealed.explaining["row_cost_s"]
        importances = measure_importances(draft, manifest, subject, choice.program, cost_s)
        said.append((IMPORTANCE_KIND, importances))
    if subject.train is not None and request.federated is None:
        said.append((TRAINING_KIND, training.describe(subject.train, subject.signature)))
    now, by = datetime.now(UTC), author or user_name()
    for kind, body in said:
        disk.write_statement(draft, kind, body, at=now, by=by)
    text = card.render(manifest, card.Said.of(disk.read_statements(draft)))
    with writing(draft / disk.CARD):
        (draft / disk.CARD).write_text(text, encoding="utf-8")
    return manifest


@dataclass(frozen=True, slots=True)
class InputRows:
    """The rows that a model is packed with, as a caller hands them over; see `pack`."""

    train: Any
    test: Any
    calibration: Any


@dataclass(frozen=True, slots=True)
class Request:
    """What the caller of `pack` asked for; see there.

    `is_rebuilt` is True for a bundle that is packed again, whose rows were accepted before.
    """

    name: str
    tolerance: float
    keep_test: bool
    baseline: bool
    serve_original: bool
    allow_non_finite: bool = False
    outliers: bool = True
    is_rebuilt: bool = False
    explain: bool | int = True
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    lineage: Sequence[Mapping[str, Any]] = ()
    privacy: PrivacyClaim | None = None
    features: str | Features | None = None
    federated: Mapping[str, Any] | None = None
    code: str | Path | Sequence[str | Path] = ()
    tell: Progress = lambda _: None  # for callers that show nothing


@dataclass(frozen=True, slots=True)
class _Sealed:
    """What was written into a draft, and what it was made from.

    Attributes:
        manifest: What the digest covers.
        subject: The model as its flavor read it.
        choice: What is served.
        own: The rows that it was calibrated on, where they were of their own.
        calibration: The body of the `calibration` statement.
        explaining: The body of the `explaining` statement; empty where none was asked for.
    """

    manifest: Manifest
    subject: ImportedModel
    choice: _Choice
    own: Rows | None
    calibration: dict[str, Any]
    explaining: Mapping[str, Any]


def seal(draft: Path, model: Any, rows: InputRows, request: Request) -> _Sealed:
    """Write all that the digest covers, and nothing that is only said of it.

    The same model, rows and request give the same digest, under the same versions.
    """
    flavor = flavor_of(model, request.code)
    subject = flavor.read(model, rows.train, rows.test)
    request.tell(_described(subject, flavor))
    if subject.saved_format == retrieval.FORMAT:  # whose rows are data, and no training
        request = replace(request, baseline=False, outliers=False, explain=False)
    features = request.features or None
    if isinstance(features, str):
        features = features_of(features, subject.signature)
    own = calibrating.read_rows(rows.calibration, subject)
    if not request.is_rebuilt:
        check_rows(subject, own)
    kept = _kept(subject, request)
    # Each candidate is compiled once, when the first of the three asks for it.
    made, again, third = itertools.tee(_compilations(flavor, model, subject), 3)
    choice = _choose(made, subject, _rows_to_compare(subject), request)
    choice = _with_others(again, subject, choice, request)
    answers = calibrating.Answers(choice.program)
    if not (request.is_rebuilt or request.allow_non_finite):
        check_answers(answers, subject)
    held_out = calibrating.calibrate(answers, subject, own)
    request.tell(held_out.told)
    told, baseline = "no baseline, as asked", dict[str, bytes]()
    if request.baseline:
        told, baseline = profiling.profile(answers, subject)
    request.tell(told)
    told, scorer = "no scorer of outliers, as asked", dict[str, bytes]()
    if request.outliers:
        told, scorer = outlying.score_outliers(subject, own)
    request.tell(told)
    explained = _explained(lambda: copy.copy(third), subject, choice, request)
    request.tell(explained.told)
    files = {**kept, **held_out.files, **baseline, **scorer, **explained.files}
    if features is not None:
        files[disk.FEATURES] = canonical_json(msgspec.to_builtins(features))
    manifest = _write(draft, flavor, subject, choice, files, request)
    return _Sealed(manifest, subject, choice, own, held_out.statement(), explained.statement)


def _explained(
    compilations: Callable[[], Iterator[Compilation]],
    subject: ImportedModel,
    choice: _Choice,
    request: Request,
) -> explaining.Explained:
    if subject.own_program is not None:
        return explaining.Explained("no explanations: its parts have their own")
    if request.explain is False:
        return explaining.Explained("no explanations, as asked")
    made = choice.compilation
    sources = explaining.Sources(
        subject=subject,
        compilations=compilations,
        program=choice.program,
        outputs=subject.signature.outputs if made is None else made.outputs,
        background=0 if request.explain is True else request.explain,
        tolerance=request.tolerance,
        program_bytes=0 if made is None else len(made.data),
    )
    return explaining.explain(sources)


def _compilations(flavor: Flavor, model: Any, subject: ImportedModel) -> Iterator[Compilation]:
    """Nothing is compiled, or raised, before it is asked for."""
    try:
        yield from flavor.compilations(model, subject)
    except Unconvertible as problem:
        hint = problem.hint
        if "serve_original" not in hint:
            hint = f"{hint}; or {_SERVE_ORIGINAL}" if hint else _SERVE_ORIGINAL
        raise Unconvertible(problem.message, hint=hint, **problem.facts) from problem


def _kept(subject: ImportedModel, request: Request) -> dict[str, bytes]:
    """The held-out rows as a file, made first: a refusal comes before anything takes long."""
    if not request.keep_test or subject.test is None:
        return {}
    test = subject.test
    return {disk.TEST_DATA: to_parquet(test.columns, test.truth, subject.signature)}


@dataclass(frozen=True, slots=True)
class _Other:
    """A further program that was found equal, and its file."""

    entry: ProgramEntry
    data: bytes
    program: Program


@dataclass(frozen=True, slots=True)
class _Choice:
    """What is served: a compilation that passed, or else the original, with the reason.

    And the programs that passed beside it, and the parity of all that were tried.
    """

    parity: Parity
    compilation: Compilation | None
    program: Program
    batch_invariant: bool
    compared: ComparedRows | None = None
    others: tuple[_Other, ...] = ()
    others_parity: tuple[Parity, ...] = ()


def _choose(
    compilations: Iterable[Compilation], subject: ImportedModel, rows: Rows | None, request: Request
) -> _Choice:
    """The first compilation that is equal to the original on all rows, or the original."""
    if subject.saved_format in _SERVED_AS_SAVED:
        request.tell("the original itself answers, in a process of its own")
        served = subject.reopened or subject.original
        if subject.saved_format not in _OF_ITS_OWN:
            _check_company(subject, served, request)
        itself = replace(
            parity.exact(rows=0, tolerance=request.tolerance),
            program=disk.ORIGINAL,
            reason="the original itself answers, in a process of its own",
        )
        return _Choice(itself, None, served, batch_invariant=False)
    if rows is None:
        return _own_original(compilations, subject, request)
    real, expected = asking.compared(subject, rows, tolerance=request.tolerance)
    on = ComparedRows(real, expected)
    trained = real if subject.train is None else parity.sample(subject.train.columns)
    made_up = adversarial.made_up(subject.signature.inputs, trained, huge=not subject.is_network)
    if not request.is_rebuilt:
        # A library may read whole numbers otherwise beside missing ones: what is served counts.
        served = subject.reopened or subject.original
        company.check(served, real, made_up, tolerance=request.tolerance, in_short=True)
    static = on.joined(subject.original, made_up)
    failed: list[Parity] = []
    try:
        for compilation in compilations:
            precision = compilation.precision
            numbers = f" in {precision}" if precision.startswith("float") else ""
            request.tell(f"compiled to ONNX{numbers}{_behind(compilation)}")
            if compilation.rounding > request.tolerance:
                failed.append(_too_steep(compilation, request))
                continue
            try:
                program = _opened(
                    _entry(compilation, subject, request),
                    compilation.data,
                    subject,
                    compilation.outputs,
                )
                found = jumps.find(program, subject.signature.inputs, trained)
                on = static if found is None else static.joined(subject.original, found.beside())
                precision = compilation.precision
                judged, invariant = _judged(
                    subject.original, program, on, precision, request, subject.decide
                )
                if found is not None and judged.passed:
                    judged = found.judged(subject.original, judged)
            except (Untrusted, ModelFailed) as problem:
                failed.append(_no_parity(problem.message, compilation.precision, request))
                continue
            request.tell(f"answers differ from the original {_parity_words(judged)}")
            if judged.passed:
                return _Choice(judged, compilation, program, invariant, on)
            failed.append(judged)
    except Unconvertible as problem:
        if not (request.serve_original or is_isolated(subject.saved_format)):
            raise
        failed.append(_no_parity(problem.message, "", request))
    # The reason that is worth reading is of the way that came closest.
    nearest = min(failed, key=lambda parity: parity.max_difference)
    request.tell("the original is served: " + nearest.reason)
    served = subject.reopened or subject.original
    _check_company(subject, served, request)
    return _Choice(nearest, None, served, batch_invariant=False)


def _with_others(
    compilations: Iterable[Compilation], subject: ImportedModel, choice: _Choice, request: Request
) -> _Choice:
    """The choice with the programs beside it that were found equal as well.

    The server takes one of them for requests, and batches take whichever is fastest; see
    `bundle.choosing`.
    """
    made, on = choice.compilation, choice.compared
    if made is None or on is None or b"TreeEnsemble" not in made.data:
        return choice
    if not is_runnable(MACHINE_CODE):
        return choice
    other, judged = _in_machine_code(compilations, choice, made.outputs, subject, on, request)
    others = () if other is None else (other,)
    return replace(choice, others=others, others_parity=(judged,))


def _in_machine_code(
    compilations: Iterable[Compilation],
    choice: _Choice,
    outputs: tuple[Field, ...],
    subject: ImportedModel,
    on: ComparedRows,
    request: Request,
) -> tuple[_Other | None, Parity]:
    """The first of the compilations whose trees can be taken apart, if it passes; its parity."""
    problem = "there is no sum of trees in its graph"
    for compilation in compilations:
        try:
            apart = take_apart(compilation, outputs)
            entry = replace(
                _entry(replace(compilation, inputs=apart.inputs), subject, request),
                name=MACHINE_CODE,
                kind=MACHINE_CODE,
                file=_TREES_FILE,
                precision=f"float64, leaves in float32{_behind(compilation)}",
            )
            trees = open_kind(replace(entry, inputs=apart.inputs), apart.data, outputs=outputs)
            _check_both_ways(trees, compilation, on)
            program = _opened(entry, apart.data, subject, outputs)
        except (Unconvertible, Untrusted, ModelFailed) as refused:
            problem = refused.message
            continue
        behind = None
        if compilation.steps is not None and choice.batch_invariant:
            rows = recombined(on.rows, parity.INVARIANCE_ROWS)
            behind = trees, compilation.steps(rows)
        judged, invariant = _judged(
            subject.original, program, on, entry.precision, request, subject.decide, behind
        )
        request.tell(f"trees in machine code: answers differ {_parity_words(judged)}")
        if not judged.passed:
            return None, judged
        entry = replace(entry, batch_invariant=invariant)
        return _Other(entry, apart.data, program), judged
    return None, replace(_no_parity(problem, "", request), program=MACHINE_CODE)


def _behind(compilation: Compilation) -> str:
    return "" if compilation.steps is None else ", behind the model's own steps"


def _check_both_ways(program: Program, compilation: Compilation, on: ComparedRows) -> None:
    assert isinstance(program, TreesProgram)
    many, few = program.both_ways()
    rows = on.rows if compilation.steps is None else compilation.steps(on.rows)
    if not parity.are_same_bits(parity.answers(many, rows), parity.answers(few, rows)):
        raise Unconvertible("a few rows would be answered otherwise than many")


def _own_original(
    compilations: Iterable[Compilation], subject: ImportedModel, request: Request
) -> _Choice:
    """A graph or a composition that was handed in is served as it is."""
    (compilation,) = compilations
    given = subject.test or subject.train
    own = subject.own_program
    if own is None:  # parts were checked when they were packed, and made-up texts may take long
        _check_company(subject, subject.original, request)
    invariant = own is not None and own.batch_invariant
    if given is not None and own is None:
        invariant = parity.is_batch_invariant(subject.original, given.columns)
    found = parity.exact(rows=0 if given is None else len(given), tolerance=request.tolerance)
    if own is not None:
        found = replace(found, program=disk.ORIGINAL)
    request.tell(found.reason)
    return _Choice(found, compilation, subject.original, invariant)


def _rows_to_compare(subject: ImportedModel) -> Rows | None:
    """Held-out rows, else training rows; None for a model that is its own program."""
    if subject.saved_format == "onnx" or subject.own_program is not None:
        return None
    return subject.test or subject.train


def _judged(
    original: Program,
    program: Program,
    on: ComparedRows,
    precision: str,
    request: Request,
    decide: parity.Decide | None = None,
    behind: tuple[Program, Columns] | None = None,
) -> tuple[Parity, bool]:
    """The parity of a program, and whether rows have the same bits in any company.

    `behind` is what runs behind the model's own steps, and the rows as it reads them, where the
    steps have been asked in every company already, in front of the other program.
    """
    settled = on
    for looks_at_all in (False, True, True):
        judged, invariant = parity.judge(
            program,
            settled.rows,
            settled.expected,
            tolerance=request.tolerance,
            precision=precision,
            probes=len(settled.kinds),
            decide=decide,
            behind=behind,
        )
        judged = replace(judged, probed=settled.probed)
        before = settled
        if not judged.passed and settled.kinds:
            settled = settled.without_ties(
                original, program, request.tolerance, looks_at_all=looks_at_all
            )
        if len(settled.kinds) == len(before.kinds):
            break
    if judged.passed and not request.is_rebuilt:
        count = judged.rows - judged.probes
        probes = adversarial.Probes(take(settled.rows, slice(count, None)), settled.kinds)
        dependence = company.find(
            program, take(settled.rows, slice(count)), probes, tolerance=request.tolerance
        )
        if dependence is not None:
            return replace(judged, passed=False, reason=dependence.reason), False
    return judged, invariant


def _check_company(subject: ImportedModel, served: Program, request: Request) -> None:
    """Refuse an original whose answer to a row depends on the rows beside it, or on the call."""
    if request.is_rebuilt:
        return
    inputs = subject.signature.inputs
    for columns in _rows_to_ask(subject):
        probes = adversarial.made_up(inputs, columns, huge=True)
        try:
            company.check(served, columns, probes, tolerance=request.tolerance)
        except ModelFailed:
            if subject.train is not None or subject.test is not None:
                raise
            continue  # rows of another length may be answered
        return


def _rows_to_ask(subject: ImportedModel) -> Iterator[Columns]:
    """Real rows; for a graph without any, rows that are drawn, of one length after the other."""
    given = subject.test or subject.train
    if given is not None:
        yield parity.sample(given.columns)
        return
    for length in LENGTHS:
        random = np.random.default_rng(0)
        yield {f.name: drawn(f, _DRAWN_ROWS, length, random) for f in subject.signature.inputs}


def _opened(
    entry: ProgramEntry, data: bytes, subject: ImportedModel, outputs: tuple[Field, ...]
) -> Program:
    """The program as a bundle opens it: where it has steps in front, in their process."""
    if entry.features is None:
        return open_kind(entry, data, outputs=outputs)
    signature = replace(subject.signature, outputs=outputs)
    return open_archive(subject.saved, subject.frame, signature, program=(entry, data))


def _no_parity(reason: str, precision: str, request: Request) -> Parity:
    return Parity(
        program=_PROGRAM,
        precision=precision,
        rows=0,
        max_difference=math.inf,
        tolerance=request.tolerance,
        passed=False,
        reason=reason,
    )


def _too_steep(compilation: Compilation, request: Request) -> Parity:
    reason = (
        "a step of the model's isotonic calibration is so steep that the rounding of its scores "
        f"may change a probability by {compilation.rounding:.2g}, more than {request.tolerance:g}"
    )
    return _no_parity(reason, compilation.precision, request)


def _write(
    draft: Path,
    flavor: Flavor,
    subject: ImportedModel,
    choice: _Choice,
    made_before: Mapping[str, bytes],
    request: Request,
) -> Manifest:
    """Write every file that the digest covers, and the manifest."""
    made = choice.compilation
    outputs = subject.signature.outputs if made is None else made.outputs
    signature = replace(subject.signature, outputs=outputs)
    files = {subject.saved_file: disk.write_file(draft, subject.saved_file, subject.saved)}
    programs: tuple[ProgramEntry, ...] = ()
    if made is not None:
        own = replace(_entry(made, subject, request), batch_invariant=choice.batch_invariant)
        files[own.file] = disk.write_file(draft, own.file, made.data)
        programs = (own, *(other.entry for other in choice.others))
        for other in choice.others:
            files[other.entry.file] = disk.write_file(draft, other.entry.file, other.data)
    example = example_body(_example_rows(subject), signature.inputs)
    files[disk.EXAMPLE] = disk.write_file(draft, disk.EXAMPLE, example)
    for file, data in {**made_before, **subject.files}.items():
        if isinstance(data, Path):
            files[file] = disk.copy_file(draft, file, data)
        else:
            files[file] = disk.write_file(draft, file, data)
    has_code = any(entry.kind == MACHINE_CODE for entry in programs)
    runs = ["onnxruntime", "numpy", *(["llvmlite"] if has_code else [])]
    lock = provenance.locked([*subject.requires, *runs]).encode()
    files[disk.ENVIRONMENT] = disk.write_file(draft, disk.ENVIRONMENT, lock)
    manifest = Manifest(
        name=request.name,
        flavor=flavor.name,
        task=subject.task,
        classes=subject.classes,
        signature=signature,
        original=OriginalEntry(
            subject.saved_file, subject.saved_format, subject.requires, subject.frame
        ),
        programs=programs,
        serves=programs[0].name if programs else disk.ORIGINAL,
        files=files,
        targets=subject.targets,
        allows_non_finite=request.allow_non_finite,
    )
    disk.write_manifest(draft, manifest)
    return manifest


def _entry(made: Compilation, subject: ImportedModel, request: Request) -> ProgramEntry:
    """What a manifest says of a program, before it is known whether batches change its bits."""
    if subject.own_program is not None:
        return subject.own_program
    has_steps = made.steps is not None
    return ProgramEntry(
        name=_PROGRAM,
        kind=_PROGRAM,
        file=_PROGRAM_FILE,
        inputs=subject.signature.inputs if has_steps else made.inputs,
        batch_invariant=False,
        tolerance=request.tolerance,
        precision=made.precision + _behind(made),
        missing_text=made.missing_text,
        texts=made.texts,
        features=made.inputs[0] if has_steps else None,
    )


def _example_rows(subject: ImportedModel) -> Columns:
    """Real rows where there are any; else one row of zeros and empty texts."""
    rows = subject.test or subject.train
    if rows is not None:
        return rows.columns
    if subject.example is not None:
        return subject.example
    made: Columns = {}
    for read in subject.signature.inputs:
        shape = (1, *(1 if length < 0 else length for length in read.shape))
        empty: Any = "" if read.dtype is DType.BYTES else 0
        empty = empty if read.dates is None else read.dates.example
        made[read.name] = np.full(shape, empty, read.dtype.numpy)
    return made


def _measure(
    draft: Path, manifest: Manifest, subject: ImportedModel, choice: _Choice, request: Request
) -> Cost:
    show = getattr(request.tell, "step", lambda *_: None)
    columns = parity.sample(_example_rows(subject))
    # Code of the author's and an index may refuse rows that never were.
    if subject.saved_format not in ("python", *_OF_ITS_OWN):
        columns = cost.rows_to_time(columns)
    programs = {disk.ORIGINAL: subject.reopened or subject.original}
    if choice.compilation is not None:
        others = {other.entry.name: other.program for other in choice.others}
        programs = {manifest.serves: choice.program, **others, **programs}
    latency: Mapping[str, Mapping[int, float]] = cost.measure_latency(
        programs, columns, step=partial(show, "timing the programs by batch size")
    )
    show("measuring memory", 0, 1)
    names = [name for name in latency if name != disk.ORIGINAL]
    is_own = subject.saved_format in ("onnx", COMPOSITION)
    if names and not is_own and not is_inspected(manifest.original):
        latency = _with_isolated(draft, manifest, columns, programs, latency)
    try:
        served = pinned(names, latency) if names else disk.ORIGINAL
        peak: int | None = cost.measure_memory(draft, served)
    except Unavailable:
        peak = None
    return Cost(latency, peak, manifest.size_bytes, cost.machine())


def _with_isolated(
    draft: Path,
    manifest: Manifest,
    columns: Columns,
    programs: Mapping[str, Program],
    latency: Mapping[str, Mapping[int, float]],
) -> Mapping[str, Mapping[int, float]]:
    """And what the original takes in a process of its own, where it may be worth asking there."""
    names = [name for name in programs if name != disk.ORIGINAL]
    if not is_ever_fastest(names, latency, disk.ORIGINAL):
        return latency
    try:
        child = open_original(draft, manifest, isolated=True)
        return cost.measure_latency({**programs, disk.ISOLATED: child}, columns)
    except (ModelFailed, Unavailable):
        return latency


def _provenance(sealed: _Sealed, request: Request) -> dict[str, Any]:
    return {
        "description": request.description,
        "git": provenance.git_state(Path.cwd()),
        "train": provenance.rows_json(sealed.subject.train),
        "test": provenance.rows_json(sealed.subject.test),
        "calibration": provenance.rows_json(sealed.own),
        "model_parameters": dict(sealed.subject.parameters),
        "parameters": dict(request.parameters),
        "metrics": dict(request.metrics),
        "lineage": list(request.lineage),
        "made_with": provenance.tools(),
        **({} if request.federated is None else {"federated": dict(request.federated)}),
    }


def _json_values(values: Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    if values is not None and not isinstance(values, Mapping):
        raise Invalid(f"{what} is not a dict", hint=f'pass {what}={{"name": value}}')
    made = {
        str(name): value.item() if isinstance(value, np.generic) else value
        for name, value in (values or {}).items()
    }
    try:
        canonical_json(made)
    except (TypeError, ValueError):
        raise Invalid(
            f"{what} holds a value that JSON has no word for",
            hint="give finite numbers, texts and lists of them",
        ) from None
    return made


def _described(subject: ImportedModel, flavor: Flavor) -> str:
    inputs = subject.signature.inputs
    width = inputs[0].shape[0] if subject.signature.is_matrix else len(inputs)
    taken = f"{width} column{'' if width == 1 else 's'}"
    if width == 1 and len(inputs[0].shape) > 1:
        taken = f"arrays of {' x '.join(map(str, inputs[0].shape))}"
    kind = "" if subject.task in ("other", flavor.name) else f" {subject.task}"
    return f"read a {flavor.name}{kind} model of {taken}{_unnamed_outputs(subject)}"


def _unnamed_outputs(subject: ImportedModel) -> str:
    """How a network is made a classifier or a regressor, where its held-out rows have a truth."""
    if not (subject.is_network and subject.task == "other" and subject.test is not None):
        return ""
    return (
        "; its quality is not measured: outputs `label` and `probabilities` would make it a "
        "classifier, and `prediction` a regression"
    )


def _parity_words(judged: Parity) -> str:
    return f"by at most {judged.max_difference:.2g} on {judged.rows:,} rows"


def _costs(measured: Cost, serves: str) -> str:
    own, original = (
        duration_words(measured.latency_us[program][1] * 1e-6)
        for program in (serves, disk.ORIGINAL)
    )
    return f"one row takes {own}" + (
        "" if serves in (disk.ORIGINAL, COMPOSITION) else f", and {original} in the original"
    )
