"""From what a composition says, and the manifests of its models, to steps in order. Pure.

All that can be wrong is refused here, when a composition is packed and again when it is opened:
an unknown part or column, types that do not fit, a cycle, an example that a rule table fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, cast

import numpy as np

from bascule.bundle.compositions.document import Document, Formula, Part, wrong
from bascule.bundle.compositions.expressions import (
    Column,
    Expression,
    Key,
    Label,
    constant,
    owners,
    parse,
)
from bascule.bundle.compositions.steps import (
    Feed,
    Running,
    Step,
    ask_model,
    average,
    decide,
    route,
)
from bascule.bundle.disk import Manifest
from bascule.core import DType, Field, Invalid, Signature


@dataclass(frozen=True, slots=True)
class Plan:
    """A composition that fits together.

    Attributes:
        signature: Of the composition.
        steps: Every part, by name, each behind what it reads.
        levels: The parts that run for all rows: those of one level read nothing of each other.
        outputs: The expressions of the outputs.
        final: The part whose answer the composition gives, unchanged; None where there is none.
    """

    signature: Signature
    steps: Mapping[str, Step]
    levels: tuple[tuple[str, ...], ...]
    outputs: tuple[Expression, ...]
    final: Step | None


def make_plan(document: Document, manifests: Mapping[str, Manifest]) -> Plan:
    """The plan of a composition.

    Args:
        document: What it says.
        manifests: By part that is a model, of its bundle.

    Raises:
        Invalid: It does not fit together; the message names the place.
    """
    return _Planner(document, manifests).plan()


class _Planner:
    def __init__(self, document: Document, manifests: Mapping[str, Manifest]) -> None:
        self._document = document
        self._manifests = manifests
        self._parts = {part.name: part for part in document.parts}
        self._steps: dict[str, Step] = {}
        self._chosen = {row.part: part.name for part in document.parts for row in part.router}
        self._inputs: dict[str, Field] = {}
        self._used: set[Key] = set()

    def plan(self) -> Plan:
        for part in self._document.parts:
            for field in self._own_inputs(part):
                known = self._inputs.get(field.name, field)
                at = f"parts.{part.name}.inputs.{field.name}"
                self._inputs[field.name] = _merged(known, field, at)
                self._used.add(("", field.name))
        for name, written in sorted(self._document.inputs.items()):
            if name in self._inputs or written not in {*DType}:
                raise Invalid(
                    f"inputs.{name}: a model reads it, or there is no type {written!r}",
                    hint=f"types are {', '.join(DType)}",
                )
            dtype = DType(written)
            nullable = dtype.is_float or dtype is DType.BYTES
            self._inputs[name] = Field(name, dtype, nullable=nullable)
        levels = self._levels()
        for name in (name for level in levels for name in level):
            self._steps[name] = self._step(self._parts[name], f"parts.{name}")
        outputs, final = self._outputs()
        for name in self._inputs:
            owner, point, _ = name.partition(".")
            if ("", name) not in self._used or (point and owner in self._parts):
                raise wrong(f"inputs.{name}: nothing reads it, or it is called as a part's output")
        return Plan(
            Signature(tuple(self._inputs.values()), tuple(one.field for one in outputs)),
            self._steps,
            tuple(tuple(name for name in level if name not in self._chosen) for level in levels),
            outputs,
            final,
        )

    def _own_inputs(self, part: Part) -> list[Field]:
        """What a model takes from the request as it is."""
        if not part.model:
            return []
        fields = self._manifests[part.name].signature.inputs
        if unknown := part.inputs.keys() - {field.name for field in fields}:
            raise Invalid(
                f"parts.{part.name}.inputs.{min(unknown)}: {part.model} has no such input",
                hint=f"it has {_listed(fields)}",
            )
        return [field for field in fields if field.name not in part.inputs]

    def _levels(self) -> list[tuple[str, ...]]:
        sorter = TopologicalSorter({part.name: self._needs(part) for part in self._parts.values()})
        try:
            sorter.prepare()
        except CycleError as problem:
            ring = " -> ".join(reversed(problem.args[1]))
            raise wrong(f"parts.{problem.args[1][0]}: parts read in a circle: {ring}") from None
        levels = []
        order = list(self._parts)
        while ready := sorted(sorter.get_ready(), key=order.index):
            sorter.done(*ready)
            levels.append(tuple(ready))
        return levels

    def _needs(self, part: Part) -> list[str]:
        rows = [*part.router, *part.rules]
        texts = [*part.inputs.values(), *(row.when for row in rows)]
        cells = (cell for row in rows for cell in row.then.values())
        texts += [cell.value for cell in cells if isinstance(cell, Formula)]
        named = [*part.ensemble, *(row.part for row in part.router)]
        for name in named:
            if name not in self._parts:
                raise Invalid(
                    f"parts.{part.name}: there is no part {name!r}",
                    hint=f"parts are {', '.join(self._parts)}",
                )
            if self._chosen.get(name, part.name) != part.name:
                raise self._only_routed(name)
        return [*named, *(name for text in texts for name in owners(text) if name in self._parts)]

    def _only_routed(self, name: str) -> Invalid:
        router = self._chosen[name]
        return Invalid(
            f"{name!r} answers only the rows that {router!r} gives it",
            hint=f"read the outputs of {router}, or write a second part with the same model",
        )

    # -- columns --

    def _find(self, part: str, name: str, label: Label) -> Column:
        if part not in self._parts:
            name = f"{part}.{name}" if part else name
            if name not in self._inputs:
                raise Invalid(
                    f"no part and no model's input is {name!r}",
                    hint=f"declare it, such as [inputs] {name} = 'FP64', or correct it",
                )
            key, classes = ("", name), None
        else:
            if part in self._chosen:
                raise self._only_routed(part)
            step = self._steps[part]
            key, classes = (part, name), step.classes
            for target in step.targets:
                classes = target.classes if name == f"probabilities.{target.name}" else classes
        self._used.add(key)
        field = self._field_of(key)
        return Column(key, field, None if label is None else _place(label, field, classes))

    def _field_of(self, key: Key) -> Field:
        if not key[0]:
            return self._inputs[key[1]]
        step = self._steps[key[0]]
        return _named(key[1], (*step.outputs, *step.notes), f"part {key[0]!r}")

    # -- steps --

    def _step(self, part: Part, at: str) -> Step:
        if part.model:
            return self._model(part, at)
        if part.ensemble:
            return self._ensemble(part, at)
        return self._router(part, at) if part.router else self._rules(part, at)

    def _model(self, part: Part, at: str) -> Step:
        manifest = self._manifests[part.name]
        entry, fields = manifest.program(part.program), manifest.signature.inputs
        reads = fields if entry is None else entry.inputs
        feeds = [
            self._feed(part, field, read.dtype, f"{at}.inputs.{field.name}")
            for field, read in zip(fields, reads, strict=True)
        ]
        return Step(
            name=part.name, run=ask_model(part.name, feeds), outputs=manifest.signature.outputs,
            task=manifest.task, classes=manifest.classes, targets=manifest.targets,
        )  # fmt: skip

    def _feed(self, part: Part, field: Field, dtype: DType, at: str) -> Feed:
        text = part.inputs.get(field.name)
        if text is None:  # the signature of the composition has the limits of the model
            own, key = self._inputs[field.name], ("", field.name)
            return Feed(field, dtype, Expression("", own, (key,), lambda v: v[key]), False)
        source = parse(text, self._find, at)
        given, takes = source.field, field.dtype
        fits = given.shape == field.shape
        if takes is DType.BYTES or given.dtype is DType.BYTES:
            fits &= takes is given.dtype
        elif not takes.is_float:
            fits &= not source.reads or bool(np.can_cast(given.dtype.numpy, takes.numpy))
        if not fits:
            raise wrong(f"{at}: takes {_type(field)}, and {text} is {_type(given)}")
        has_limits = field.categories is not None or field.bounds is not None
        may_miss = given.dtype.is_float or given.nullable
        return Feed(field, dtype, source, has_limits or (may_miss and not field.nullable))

    def _ensemble(self, part: Part, at: str) -> Step:
        steps = [self._steps[name] for name in part.ensemble]
        first, is_vote = steps[0], part.how == "vote"
        output = "prediction" if first.classes is None else "probabilities"
        if is_vote:
            output = "label"
        fields = [_named(output, step.outputs, f"{at}.ensemble: {step.name!r}") for step in steps]
        for step, field in zip(steps, fields, strict=True):
            is_other = step.classes != first.classes or field.shape != fields[0].shape
            is_text = not is_vote and field.dtype in (DType.BYTES, DType.BOOL)
            if is_other or is_text or (is_vote and first.classes is None):
                raise Invalid(
                    f"{at}.ensemble: {step.name!r} and {first.name!r} predict different things",
                    hint="members have the same classes, and outputs of one shape",
                )
        outputs: tuple[Field, ...] = (replace(fields[0], dtype=DType.FP64),)
        if first.classes is not None:
            shares = Field("probabilities", DType.FP64, (len(first.classes),))
            outputs = (_named("label", first.outputs, at), shares)
        weights = part.weights or [1.0] * len(steps)
        return Step(
            name=part.name, task=first.task, classes=first.classes, outputs=outputs,
            run=average(part.ensemble, weights, outputs, first.classes, is_vote=is_vote),
        )  # fmt: skip

    def _router(self, part: Part, at: str) -> Step:
        steps = [self._steps[row.part] for row in part.router]
        first = steps[0]
        for step in steps:
            is_taken = any(field.name == "part" for field in step.outputs)
            if step.outputs != first.outputs or step.classes != first.classes or is_taken:
                raise Invalid(
                    f"{at}.router: {step.name!r} has other outputs than {first.name!r}: "
                    f"{_listed(step.outputs)} in place of {_listed(first.outputs)}",
                    hint="they have outputs of one form, none called part, and the same classes",
                )
        conditions = self._conditions(part, f"{at}.router")
        return Step(
            name=part.name, run=route(conditions, [row.part for row in part.router], first.outputs),
            outputs=first.outputs, task=first.task, classes=first.classes, targets=first.targets,
            notes=(Field("part", DType.BYTES),),
        )  # fmt: skip

    def _conditions(self, part: Part, at: str) -> list[Expression]:
        rows = (part.router or part.rules)[:-1]
        return [
            parse(row.when, self._find, f"{at}[{place}].when", is_condition=True)
            for place, row in enumerate(rows, 1)
        ]

    def _rules(self, part: Part, at: str) -> Step:
        names = list(part.rules[0].then)
        then: dict[str, list[Expression]] = {name: [] for name in names}
        for place, row in enumerate(part.rules, 1):
            if row.then.keys() != then.keys() or not names or "rule" in names:
                raise wrong(
                    f"{at}.rules[{place}].then: every row gives the same outputs, one or more, "
                    "none of which is called rule"
                )
            for name, said in row.then.items():
                where = f"{at}.rules[{place}].then.{name}"
                cell = (
                    parse(said.value, self._find, where)
                    if isinstance(said, Formula)
                    else constant(said)
                )
                then[name].append(cell)
        outputs = [_common(name, then[name], f"{at}.rules") for name in names]
        conditions = self._conditions(part, f"{at}.rules")
        step = Step(
            name=part.name, outputs=tuple(outputs), run=decide(conditions, then, outputs),
            notes=(Field("rule", DType.INT64),),
        )  # fmt: skip
        cells = [cell for column in then.values() for cell in column]
        reads = {key for one in (*conditions, *cells) for key in one.reads}
        missing = {key: _missing_row(self._field_of(key)) for key in reads}
        for place, example in enumerate(part.examples, 1):
            values = {key: row.copy() for key, row in missing.items()}
            where = f"{at}.examples[{place}]"
            for text, value in example.given.items():
                self._put(values, text, value, where)
            _check_example(step, values, example.then, where)
        return step

    def _put(self, values: dict[Key, Any], text: str, value: Any, at: str) -> None:
        """Put a value of an example where a reference finds it."""
        found: list[Column] = []

        def find(*named: Any) -> Column:
            found.append(self._find(*named))
            return found[-1]

        parse(text, find, f"{at}.given")
        if len(found) != 1 or found[0].key not in values:
            raise wrong(f"{at}.given: the rules do not read {text!r}")
        key, field, place = found[0]
        try:
            if field.dtype is DType.BYTES and not isinstance(value, str):
                raise ValueError
            values[key][(0,) if place is None else (0, place)] = value
        except ValueError:
            raise wrong(f"{at}.given: {value!r} is no value of {text}") from None

    def _outputs(self) -> tuple[tuple[Expression, ...], Step | None]:
        last = self._document.parts[-1].name
        last = self._chosen.get(last, last)
        said = [(one.name, one.value) for one in self._document.outputs]
        if not said:
            names = [one.name for one in self._steps[last].outputs]
            said = [(name, f"column({f'{last}.{name}'!r})") for name in names]
        made = [(name, parse(text, self._find, f"outputs.{name}")) for name, text in said]
        outputs = tuple(replace(one, field=replace(one.field, name=name)) for name, one in made)
        if len(dict(said)) < len(said) or not all(one.reads for one in outputs):
            raise wrong("outputs: two have one name, or one is a constant")
        parts = {key[0] for one in outputs for key in one.reads}
        final = self._steps.get(min(parts)) if len(parts) == 1 else None
        is_whole = final is not None and tuple(one.field for one in outputs) == final.outputs
        return outputs, final if is_whole else None


def _merged(known: Field, field: Field, at: str) -> Field:
    """A column of the request that several models take: what all of them take."""
    dtype = _narrower(known.dtype, field.dtype)
    categories, bounds = known.categories or field.categories, known.bounds or field.bounds
    if known.categories and field.categories:
        categories = tuple(one for one in known.categories if one in field.categories)
    if known.bounds and field.bounds:
        bounds = max(known.bounds[0], field.bounds[0]), min(known.bounds[1], field.bounds[1])
    dates = {known.dates, field.dates} - {None}
    if dtype is None or known.shape != field.shape or len(dates) > 1 or categories == ():
        raise Invalid(
            f"{at}: takes {_type(field)}, and another part takes {_type(known)} of that name",
            hint="map one of them to a column of another name",
        )
    return replace(
        known, dtype=dtype, nullable=known.nullable and field.nullable, categories=categories,
        bounds=bounds, booleans=known.booleans or field.booleans, dates=next(iter(dates), None),
    )  # fmt: skip


def _narrower(ours: DType, theirs: DType) -> DType | None:
    """What both take: of numbers with a point the wider, of whole ones the narrower."""
    if ours is theirs or DType.BYTES in (ours, theirs):
        return ours if ours is theirs else None
    if ours.is_float and theirs.is_float:
        return max(ours, theirs, key=lambda one: one.numpy.itemsize)
    if ours.is_float or theirs.is_float:
        return theirs if ours.is_float else ours
    if np.can_cast(ours.numpy, theirs.numpy):
        return ours
    return theirs if np.can_cast(theirs.numpy, ours.numpy) else None


def _place(label: str | int, field: Field, classes: Sequence[Any] | None) -> int:
    width = field.shape[0] if len(field.shape) == 1 else 0
    words: list[Any] = [str(one) for one in classes or ()]
    if len(words) != width:
        words = [str(place) for place in range(width)]
    if str(label) not in words:
        raise Invalid(f"{field.name} has no value {label!r}", hint=f"it has {', '.join(words)}")
    return words.index(str(label))


def _common(name: str, cells: Sequence[Expression], at: str) -> Field:
    dtypes = {cell.field.dtype for cell in cells}
    if any(cell.field.shape for cell in cells) or (
        len(dtypes) > 1 and dtypes & {DType.BYTES, DType.BOOL}
    ):
        raise wrong(f"{at}: {name} is {' and '.join(_type(c.field) for c in cells)} in its rows")
    dtype = dtypes.pop() if len(dtypes) == 1 else DType.FP64
    return Field(name, dtype, nullable=any(cell.field.nullable for cell in cells))


def _check_example(step: Step, values: Mapping[Key, Any], then: Mapping[str, Any], at: str) -> None:
    with np.errstate(all="ignore"):
        made = step.run(values, 1, cast(Running, None))  # a rule table asks no other part
    for name, wanted in then.items():
        _named(name, step.outputs, f"{at}.then: the table")
        given = made[name][0]
        is_number = made[name].dtype.kind in "iuf" and not isinstance(wanted, str)
        if not (np.isclose(given, wanted) if is_number else given == wanted):
            raise Invalid(
                f"{at}: row {made['rule'][0]} of the table gives {name} = {given!s}, and the "
                f"example says {wanted!s}",
                hint="correct the table or the example",
            )


def _missing_row(field: Field) -> Any:
    shape = (1, *(max(1, length) for length in field.shape))
    if field.dtype is DType.BYTES:
        return np.full(shape, None, object)
    return np.zeros(shape, bool) if field.dtype is DType.BOOL else np.full(shape, np.nan)


def _named(name: str, fields: Iterable[Field], of: str) -> Field:
    for field in fields:
        if field.name == name:
            return field
    raise Invalid(f"{of} has no output {name!r}", hint=f"it has {_listed(fields)}")


def _listed(fields: Iterable[Field]) -> str:
    return ", ".join(f"{field.name} ({_type(field)})" for field in fields)


def _type(field: Field) -> str:
    return field.dtype.value + (f" of shape {list(field.shape)}" if field.shape else "")
