"""A pipeline: which rows, which code, and what becomes of the model; from TOML or a decorator."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from bascule.core import Invalid, NotFound, check_file, check_name, first_line

Code = TypeVar("Code", bound=Callable[..., Any])
_DECLARED = "__bascule_pipeline__"


class Pipeline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a training run does.

    Attributes:
        name: Of the pipeline, and of the model in the registry.
        data: The rows: a file, a folder, a glob or a bucket; or a database, with `#TABLE` or with
            `query`.
        query: SQL of that database. Where equal rows shall be known again, it has an order, or
            the pipeline a `time` without ties.
        features: A feature store, `STORE#SOURCE`, that is joined to the rows by keys and `time`:
            what was known then, and nothing newer. See `bundle.features.join`.
        target: The column that is predicted.
        time: The column by which rows are old or new; empty: they are in that order.
        held_out: The newest rows, which the model is judged by and not fitted to: their number, or
            their share if it is under 1. What is held out is not learned: on a year of flights,
            a month of them costs 0.009 of the area under the curve, more than every second
            training does (bench/loop.py).
        fit: `FILE.py:FUNCTION` of the rows, the target and the parameters, which gives a fitted
            model. Empty where `command` is there.
        command: A program, in place of `fit`. `{train}` stands for a Parquet file of the rows with
            the target, `{model}` for the file to write.
        model_file: The name of that file: its ending tells what it holds.
        parameters: Of `fit`, or the environment of the command.
        search: By parameter, what `bascule optimize --train` draws from: `[2, 8]` is a range,
            `["log", 8, 256]` one of orders of magnitude, any other list is of choices.
        check: `FILE.py:NAME` of a pandera schema, or of a function that raises for bad rows.
        criteria: Gates, beside those of the settings.
        metric: What a challenger must be better in than the champion; empty: that of its task.
        margin: By how much a challenger may be worse and win all the same, in the unit of the
            metric. 0: it must be better, which is strict where each run adds little: on the census
            2 of 12 honest challengers won with 0, and all with 0.002 (bench/loop.py). With a
            margin, a champion can lose it anew with each promotion.
        endpoint: Which gets a challenger that has won; empty: none does.
        strategy: How it goes out, as of `bascule deploy`; empty: as the settings say.
        refit: Whether a winner is fitted again to all rows, held-out ones too, and goes out so. It
            is not exactly the version that was judged: parity and the gates that need no truth are
            asked of it again. It has no held-out rows: nothing is calibrated on them, and no alert
            compares `performance` with them. Later challengers meet the version that was judged.
        changes_outcomes: Whether callers act on answers so that truths change, or never come: a
            payment that is blocked has none. Verdicts name the danger where no row is held back.
        holdback: The column that tells rows whose answer was held back (`Plan.holdback_percent`):
            true, 1, or `holdback`, as in the column `arm` of the ledger. Where there are
            `LEAST_HELD_BACK` of them, they alone train and judge. No input of the model.
        on: Where `fit` runs: `ray`, or `ray://HOST:PORT`; empty: in this process.
    """

    name: str
    data: str
    query: str = ""
    features: str = ""
    target: str
    time: str = ""
    held_out: Annotated[float, msgspec.Meta(gt=0)] = 0.2
    fit: str = ""
    command: tuple[str, ...] = ()
    model_file: str = ""
    parameters: dict[str, Any] = {}
    search: dict[str, Annotated[list[int | float | str | bool], msgspec.Meta(min_length=2)]] = {}
    check: str = ""
    criteria: tuple[str, ...] = ()
    metric: str = ""
    margin: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    endpoint: str = ""
    strategy: str = ""
    refit: bool = False
    changes_outcomes: bool = False
    holdback: str = ""
    on: Annotated[str, msgspec.Meta(pattern="^(ray(://.+)?)?$")] = ""

    def with_parameters(self, parameters: Mapping[str, Any]) -> Pipeline:
        return msgspec.structs.replace(self, parameters={**self.parameters, **parameters})


class Learner(Pipeline, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pipeline with `every`: its model goes on learning, from the outcomes in the ledger.

    Attributes:
        fit: `FILE.py:FUNCTION` of the parameters, which gives the model to begin with: of river,
            or of scikit-learn with `partial_fit`.
        every: Outcomes from one snapshot to the next.
        held_out: Outcomes after a snapshot, which it has not learnt and is judged by.
        batch: Outcomes that are learnt at once.
        classes: The labels, in the order of the probabilities; `[]` where the truth is a number.
        holdback: `arm`: it learns outcomes of held-back requests alone, however few.
    """

    data: str = "the ledger"
    target: str = "truth"
    every: Annotated[int, msgspec.Meta(ge=1)]
    held_out: Annotated[float, msgspec.Meta(ge=1)] = 1_000
    batch: Annotated[int, msgspec.Meta(ge=1)] = 100
    classes: tuple[str | int | float | bool, ...]


@dataclass(frozen=True, slots=True)
class _Declared:
    options: Mapping[str, Any]


def pipeline(**options: Any) -> Callable[[Code], Code]:
    """Declare a function of a file as the `fit` of a pipeline, of the function's name.

    Args:
        options: The attributes of `Pipeline`.
    """

    def declare(function: Code) -> Code:
        setattr(function, _DECLARED, _Declared(options))
        return function

    return declare


def read_pipeline(file: Path, name: str = "") -> Pipeline:
    """A pipeline of a TOML file (`[pipeline.NAME]`), or of a Python file, which is run.

    Args:
        file: Its end tells which it is.
        name: Of the pipeline; may be empty where the file has one alone.

    Raises:
        NotFound: There is no such file, or no such pipeline in it.
        Invalid: It cannot be read; the message names the field.
    """
    check_file(file, "pipeline")
    # A batch job writes tables where its callers may: none of them is ever read as code.
    if file.suffix not in (".toml", ".py"):
        raise Invalid(f"{file} is no pipeline", hint="name a .toml or a .py file")
    contents = _declared_in(file) if file.suffix == ".py" else _written_in(file)
    if not name and len(contents) == 1:
        (name,) = contents
    if name not in contents:
        raise NotFound(
            f"{file} has no pipeline {name!r}" if name else f"{file}: which pipeline is it?",
            hint=f"it has {', '.join(contents)}" if contents else "write [pipeline.NAME]",
        )
    return parsed(name, contents[name])


def read_values(texts: Iterable[str]) -> dict[str, Any]:
    """Parameters from `NAME=VALUE`, each value JSON or else a text. Raises `Invalid`."""
    values = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name or not equals:
            raise Invalid(f"{text!r} is no parameter", hint="write NAME=VALUE, as depth=3")
        try:
            values[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            values[name] = value
    return values


def parsed(name: str, content: Any) -> Pipeline:
    """Raises `Invalid`, with the name of the field."""
    check_name(name, what="pipeline")
    kind: type[Pipeline] = Pipeline
    hint = "data, target and fit are needed"
    if "every" in content:
        kind, hint = Learner, "fit and classes are needed: classes = [] where the truth is a number"
    try:
        result = msgspec.convert({"name": name, **content}, kind)
    except (msgspec.ValidationError, TypeError) as problem:
        raise Invalid(f"pipeline {name}: {first_line(problem)}", hint=hint) from None
    for parameter, values in result.search.items():
        least = 0.0 if values[0] == "log" else -math.inf
        ends: list[Any] = [end for end in values if not isinstance(end, str | bool)]
        is_range = len(values) == (3 if least == 0 else 2) and len(ends) == 2
        if (is_range and not least < ends[0] < ends[1] < math.inf) or (least == 0 and not is_range):
            raise Invalid(
                f"pipeline {name}: search.{parameter}: {values} is no range",
                hint='write [2, 8], or ["log", 8, 256] of numbers over 0, the smaller first',
            )
    if result.features and (not result.time or isinstance(result, Learner)):
        raise Invalid(f"pipeline {name}: features are joined by time", hint='time = "COLUMN"')
    if bool(result.fit) == bool(result.command):
        raise Invalid(f"pipeline {name}: needs fit or command", hint='fit = "train.py:fit"')
    if result.command and not result.model_file:
        raise Invalid(
            f"pipeline {name}: a command needs model_file", hint='model_file = "model.ubj"'
        )
    if result.on and (result.command or isinstance(result, Learner)):
        raise Invalid(
            f"pipeline {name}: a command, or a pipeline with every, does not run on Ray",
            hint="leave on out, or write fit",
        )
    if isinstance(result, Learner):
        if len(result.classes) == 1:
            raise Invalid(f"pipeline {name}: one class alone", hint=hint)
        whole = (result.every % result.batch, result.held_out % result.batch) == (0, 0)
        if not whole or result.held_out >= result.every or not result.fit:
            raise Invalid(
                f"pipeline {name}: every and held_out are to be whole batches, of {result.batch}",
                hint="held_out is to be less than every, and fit is needed",
            )
        if result.refit or result.holdback not in ("", "arm"):
            raise Invalid(
                f"pipeline {name}: a learner has no refit, and holdback is arm or empty",
                hint="it learns the outcomes that judged a snapshot in any case",
            )
    return result


def _written_in(file: Path) -> dict[str, Any]:
    try:
        content = msgspec.toml.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise Invalid(
            f"{file} cannot be read: {first_line(problem)}", hint="write TOML, in UTF-8"
        ) from None
    table = content.get("pipeline")
    return table if isinstance(table, dict) else {}


def _declared_in(file: Path) -> dict[str, Any]:
    functions = vars(code_of(file)).items()
    return {
        name: {"fit": f"{file}:{name}", **getattr(function, _DECLARED).options}
        for name, function in functions
        if isinstance(getattr(function, _DECLARED, None), _Declared)
    }


def code_of(file: Path) -> Any:
    """The module that a file is; its neighbours can be imported. Raises `Invalid`, `NotFound`."""
    check_file(file, "code")
    if (folder := str(file.resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)
    spec = spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise Invalid(f"{file} is no Python file", hint='write fit = "train.py:fit"')
    module = sys.modules[file.stem] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as problem:  # code of the user may raise anything
        raise Invalid(
            f"{file} cannot be imported: {first_line(problem)}", hint=f"try: python {file}"
        ) from problem
    return module


def named_code(place: str, what: str) -> Any:
    """What `FILE.py:NAME` names. Raises `Invalid`, `NotFound`."""
    file, _, name = place.rpartition(":")
    value = getattr(code_of(Path(file)), name, None) if file else None
    if value is None:
        raise NotFound(f"{what}: there is no {place!r}", hint=f'write {what} = "train.py:NAME"')
    return value
