"""From what a composition says, and the manifests of its models, to steps in order. Pure.

All that can be wrong is refused here, when a composition is packed and again when it is opened:
an unknown part or column, types that do not fit, a cycle, an example that a rule table fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from msgspec import structs

from bascule.bundle.compositions.document import (
    Document,
    Ensemble,
    Formula,
    Model,
    Output,
    Part,
    Route,
    Router,
    Rule,
    Rules,
    wrong,
)
from bascule.bundle.compositions.expressions import (
    Column,
    Expression,
    Key,
    Label,
    constant,
    find_column,
    parse,
    placed,
)
from bascule.bundle.compositions.steps import Running, Step, ask_model, average, decide, route
from bascule.bundle.disk import Manifest
from bascule.bundle.tables import missing
from bascule.core import DType, Field, Invalid, Signature


@dataclass(frozen=True, slots=True)
class Plan:
    """A composition that fits together.

    Attributes:
        document: What it says, with its outputs.
        signature: Of the composition.
        steps: Every part, by name, each behind what it reads.
        levels: The parts that run for all rows: those of one level read nothing of each other.
        outputs: By name, the expressions of the outputs.
        final: The part whose answer the composition gives, unchanged; None where there is none.
        sources: By PART.OUTPUT, output or input, the columns whose values it may show: it is made
            of them, or they of it, and not by a model. What is private of one is so of all.
    """

    document: Document
    signature: Signature
    steps: Mapping[str, Step]
    levels: tuple[tuple[str, ...], ...]
    outputs: Mapping[str, Expression]
    final: Step | None
    sources: Mapping[str, frozenset[str]]


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
        self._names = [part.name for part in document.parts]
        self._steps: dict[str, Step] = {}
        self._routers = {
            row.part: part.name
            for part in document.parts
            if isinstance(part, Router)
            for row in part.router
        }
        self._inputs: dict[str, Field] = {}
        self._read: dict[str, set[Key]] = {}
        self._fed: dict[tuple[str, str], set[Key]] = {}
        """By model and input, what it is made of."""
        self._reading = ""

    def plan(self) -> Plan:
        self._take_inputs()
        makers: dict[type[Part], Any] = {
            Model: self._model, Ensemble: self._ensemble, Router: self._router, Rules: self._rules,
        }  # fmt: skip
        levels: dict[str, int] = {}
        for part in self._document.parts:
            self._reading = part.name
            self._steps[part.name] = makers[type(part)](part, f"parts.{part.name}")
            behind = [levels[of] for of, _ in self._read.get(part.name, ()) if of]
            levels[part.name] = 1 + max(behind, default=-1)
        self._reading = ""
        last = self._names[-1]
        declared = self._document.outputs or [
            Output(field.name, f"column({f'{last}.{field.name}'!r})")
            for field in self._steps[last].outputs
        ]
        outputs = {
            output.name: parse(output.value, self._find, f"outputs.{output.name}")
            for output in declared
        }
        if len(outputs) < len(declared) or not all(output.reads for output in outputs.values()):
            raise wrong("outputs: two have one name, or one is a constant")
        if unread := {("", name) for name in self._document.inputs}.difference(
            *self._read.values()
        ):
            raise wrong(f"inputs.{min(unread)[1]}: nothing reads it")
        fields = tuple(replace(output.field, name=name) for name, output in outputs.items())
        owning = {key[0] for output in outputs.values() for key in output.reads}
        final = self._steps.get(owning.pop()) if len(owning) == 1 else None
        running = [name for name in self._names if name not in self._routers]
        return Plan(
            document=structs.replace(self._document, outputs=declared),
            signature=Signature(tuple(self._inputs.values()), fields),
            steps=self._steps,
            levels=tuple(
                tuple(name for name in running if levels[name] == level)
                for level in sorted({levels[name] for name in running})
            ),
            outputs=outputs,
            final=final if final is not None and fields == final.outputs else None,
            sources=self._sources(outputs),
        )

    def _take_inputs(self) -> None:
        """Of the columns that models take from the request as they are, and those declared.

        Where models differ on a column, the request has that of the strictest one.
        """
        taken: dict[str, list[Field]] = {}
        for part in self._document.parts:
            if isinstance(part, Model):
                fields = self._manifests[part.name].signature.inputs
                for name in part.inputs:
                    _named(name, fields, f"parts.{part.name}.inputs: {part.model}", "input")
                for field in fields:
                    if field.name not in part.inputs:
                        taken.setdefault(field.name, []).append(field)
        for name, dtype in sorted(self._document.inputs.items()):
            nullable = dtype.is_float or dtype is DType.BYTES
            if name in taken:
                raise wrong(f"inputs.{name}: a model reads it, and says what it is")
            taken[name] = [Field(name, dtype, nullable=nullable)]
        self._inputs = {name: min(fields, key=_looseness) for name, fields in taken.items()}
        if not self._inputs:
            raise wrong("inputs: no part reads a column of the request")
        for name in self._inputs:
            owner, point, _ = name.partition(".")
            if point and owner in self._names:
                raise wrong(f"inputs.{name}: is called as an output of part {owner}")

    def _part(self, name: str) -> Step:
        """A part that is read as a whole, by a router perhaps."""
        if name not in self._steps:
            raise Invalid(
                f"there is no part {name!r} above",
                hint="parts read those above them: none reads itself, nor do two each other",
            )
        if self._routers.get(name, self._reading) != self._reading:
            router = self._routers[name]
            raise Invalid(
                f"{name!r} answers only the rows that {router!r} gives it",
                hint=f"read the outputs of {router}, or write a second part with the same model",
            )
        self._read.setdefault(self._reading, set()).add((name, ""))
        return self._steps[name]

    def _find(self, part: str, name: str, label: Label) -> Column:
        """See `expressions.Find`."""
        classes = None
        if part in self._names:
            step = self._part(part)
            field = _named(name, (*step.outputs, *step.notes), f"part {part!r}")
            classes = step.classes
        else:
            part, name = "", f"{part}.{name}" if part else name
            if name not in self._inputs:
                raise Invalid(
                    f"no part and no model's input is {name!r}",
                    hint=f"declare it, such as [inputs] {name} = 'FP64', or correct it",
                )
            field = self._inputs[name]
            self._read.setdefault(self._reading, set()).add(("", name))
        return Column((part, name), field, None if label is None else _place(label, field, classes))

    def _model(self, part: Model, at: str) -> Step:
        manifest = self._manifests[part.name]
        feeds, own = list[tuple[Field, Expression]](), list[str]()
        for field in manifest.signature.inputs:
            text, fed = part.inputs.get(field.name), {("", field.name)}
            if text is None and field == self._inputs[field.name]:
                own.append(field.name)
            else:
                text = text or f"column({field.name!r})"
                source = self._feed(field, text, f"{at}.inputs.{field.name}")
                feeds.append((field, source))
                fed = {*source.reads}
            self._fed.setdefault((manifest.name, field.name), set()).update(fed)
        return Step(
            name=part.name, run=ask_model(part.name, feeds, own), task=manifest.task,
            outputs=manifest.signature.outputs, classes=manifest.classes, targets=manifest.targets,
        )  # fmt: skip

    def _feed(self, takes: Field, text: str, at: str) -> Expression:
        source = parse(text, self._find, at)
        field = source.field
        fits = field.shape == takes.shape
        if DType.BYTES in (takes.dtype, field.dtype):
            fits &= takes.dtype is field.dtype
        elif not source.reads:
            value = float(source.run({}))
            fits &= bool(np.array(value).astype(takes.dtype.numpy) == value)
        elif not takes.dtype.is_float:
            fits &= bool(np.can_cast(field.dtype.numpy, takes.dtype.numpy))
        if not fits:
            raise wrong(f"{at}: takes {_type(takes)}, and {text} is {_type(field)}")
        return source

    def _ensemble(self, part: Ensemble, at: str) -> Step:
        with placed(f"{at}.ensemble"):
            steps = [self._part(name) for name in part.ensemble]
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
            run=average(part.ensemble, weights, outputs[0], first.classes, is_vote=is_vote),
            sources={field.name: [(name, output) for name in part.ensemble] for field in outputs},
        )  # fmt: skip

    def _router(self, part: Router, at: str) -> Step:
        names = [row.part for row in part.router]
        with placed(f"{at}.router"):
            steps = [self._part(name) for name in names]
        first = steps[0]
        for step in steps:
            is_taken = any(field.name == "part" for field in step.outputs)
            if step.outputs != first.outputs or step.classes != first.classes or is_taken:
                raise Invalid(
                    f"{at}.router: {step.name!r} has other outputs than {first.name!r}: "
                    f"{_listed(step.outputs)} in place of {_listed(first.outputs)}",
                    hint="they have outputs of one form, none called part, and the same classes",
                )
        conditions = self._conditions(part.router, f"{at}.router")
        return replace(
            first, name=part.name, run=route(conditions, names, first.outputs),
            notes=(Field("part", DType.BYTES),),
            sources={
                field.name: [(name, field.name) for name in names] for field in first.outputs
            },
        )  # fmt: skip

    def _conditions(self, rows: Sequence[Route | Rule], at: str) -> list[Expression]:
        for place, row in enumerate(rows, 1):
            if (place == len(rows)) == bool(row.when):
                raise Invalid(
                    f"{at}[{place}]: the last row, and no other, has no `when`",
                    hint="so that every row of a request has an answer",
                )
        return [
            parse(row.when, self._find, f"{at}[{place}].when", "truth value")
            for place, row in enumerate(rows[:-1], 1)
        ]

    def _rules(self, part: Rules, at: str) -> Step:
        then: dict[str, list[Expression]] = {name: [] for name in part.rules[0].then}
        for place, row in enumerate(part.rules, 1):
            where = f"{at}.rules[{place}].then"
            if row.then.keys() != then.keys() or "rule" in then:
                raise wrong(f"{where}: every row gives the same outputs, none called rule")
            for name, cell in row.then.items():
                if isinstance(cell, Formula):
                    then[name].append(parse(cell.value, self._find, f"{where}.{name}"))
                else:
                    then[name].append(constant(cell))
        outputs = tuple(_common(name, cells, f"{at}.rules") for name, cells in then.items())
        conditions = self._conditions(part.rules, f"{at}.rules")
        sources = {
            name: [key for cell in cells for key in cell.reads] for name, cells in then.items()
        }
        step = Step(
            name=part.name, outputs=outputs, run=decide(conditions, then, outputs),
            notes=(Field("rule", DType.INT64),), sources=sources,
        )  # fmt: skip
        reads = {key for row in conditions for key in row.reads}.union(*sources.values())
        for place, example in enumerate(part.examples, 1):
            where = f"{at}.examples[{place}]"
            values = self._example(reads, example.given, f"{where}.given")
            _check_example(step, values, example.then, where)
        return step

    def _example(
        self, reads: Iterable[Key], example: Mapping[str, Any], at: str
    ) -> dict[Key, np.ndarray]:
        """Of the columns that rules read a row with these values, the others missing."""
        values = {}
        for key in reads:
            field = self._find(*key, None).field
            plain = field if field.dtype in (DType.BYTES, DType.BOOL) else Field("", DType.FP64)
            column = np.zeros(1, bool) if plain.dtype is DType.BOOL else missing(plain, 1)
            values[key] = np.broadcast_to(column, (1, *(abs(n) for n in field.shape))).copy()
        for text, value in example.items():
            key, field, place = find_column(text, self._find, at)
            if key not in values:
                raise wrong(f"{at}: the rules do not read {text!r}")
            try:
                if (field.dtype is DType.BYTES) != isinstance(value, str):
                    raise ValueError
                values[key][(0,) if place is None else (0, place)] = value
            except (ValueError, OverflowError):
                raise wrong(f"{at}: {value!r} is no value of {text}") from None
        return values

    def _sources(self, outputs: Mapping[str, Expression]) -> dict[str, frozenset[str]]:
        related = [
            {(step.name, field.name), *step.sources.get(field.name, ())}
            for step in self._steps.values()
            for field in step.outputs
        ]
        related += [{("", name)} for name in self._inputs]
        related += [{("", name), *output.reads} for name, output in outputs.items()]
        groups: list[set[Key]] = []
        for new in related:
            touching = [group for group in groups if group & new]
            groups = [*(group for group in groups if not group & new), new.union(*touching)]
        sources: dict[str, frozenset[str]] = {}
        for group in groups:
            takers = [key for key, fed in self._fed.items() if fed & group]
            names = {alias for model, name in takers for alias in (name, f"{model}.{name}")}
            for part, name in group:
                model = self._manifests[part].name if part in self._manifests else part
                names |= {name, f"{part}.{name}", f"{model}.{name}"}
            for part, name in group:
                sources[f"{part}.{name}" if part else name] = frozenset(names)
        return sources


def _looseness(field: Field) -> tuple[bool, bool, int]:
    """Whole numbers before those with a point, of which the widest; the narrowest of the former."""
    size = field.dtype.numpy.itemsize
    return field.dtype.is_float, field.nullable, -size if field.dtype.is_float else size


def _place(label: str | int, field: Field, classes: Sequence[Any] | None) -> int:
    width = field.shape[0] if len(field.shape) == 1 else 0
    words: list[Any] = [str(value) for value in classes or ()]
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
        answer = step.run(values, 1, cast(Running, None))  # a rule table asks no other part
    for name, wanted in then.items():
        _named(name, step.outputs, f"{at}.then: the table")
        value = answer[name][0]
        is_close = isinstance(wanted, float) and answer[name].dtype.kind in "iuf"
        if not (np.isclose(value, wanted, rtol=1e-9) if is_close else value == wanted):
            raise Invalid(
                f"{at}: row {answer['rule'][0]} of the table gives {name} = {value!s}, and the "
                f"example says {wanted!s}",
                hint="correct the table or the example",
            )


def _named(name: str, fields: Iterable[Field], of: str, what: str = "output") -> Field:
    for field in fields:
        if field.name == name:
            return field
    raise Invalid(f"{of} has no {what} {name!r}", hint=f"it has {_listed(fields)}")


def _listed(fields: Iterable[Field]) -> str:
    return ", ".join(f"{field.name} ({_type(field)})" for field in fields)


def _type(field: Field) -> str:
    return field.dtype.value + (f" of shape {list(field.shape)}" if field.shape else "")
