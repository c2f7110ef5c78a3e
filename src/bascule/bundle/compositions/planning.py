"""From what a composition says, and the manifests of its models, to steps in order. Pure.

All that can be wrong is refused here, when a composition is packed and again when it is opened:
an unknown part or column, types that do not fit, a cycle, an example that a rule table fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np

from bascule.bundle.compositions.document import Document, Formula, Part, Route, Rule
from bascule.bundle.compositions.expressions import (
    Column,
    Expression,
    Key,
    condition,
    constant,
    owners,
    parse,
)
from bascule.bundle.compositions.steps import (
    EnsembleStep,
    Feed,
    ModelStep,
    RouterStep,
    RulesStep,
    Step,
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
        self._chosen: dict[str, str] = {}
        self._inputs = {
            name: Field(name, _dtype(said.dtype, f"inputs.{name}"), nullable=said.nullable)
            for name, said in document.inputs.items()
        }
        self._used: set[str] = set()

    def plan(self) -> Plan:
        for part in self._document.parts:
            self._note_inputs(part)
        for part in self._document.parts:
            for route in part.router:
                self._choose(part.name, route.part)
        names = self._in_order()
        for name in names:
            self._steps[name] = self._step(self._parts[name])
        outputs, final = self._outputs()
        for name in self._document.inputs:
            if name not in self._used:
                raise Invalid(f"inputs.{name}: nothing reads it", hint="leave it out")
        inputs = tuple(field for name, field in self._inputs.items() if name in self._used)
        if not inputs:
            raise Invalid("no part reads a column of the request")
        for field in inputs:
            if field.name.partition(".")[0] in self._parts and "." in field.name:
                raise Invalid(f"the input {field.name!r} has the name of an output of a part")
        return Plan(
            Signature(inputs, tuple(one.field for one in outputs)),
            {name: self._steps[name] for name in names},
            self._levels(names),
            outputs,
            final,
        )

    # -- the order of parts --

    def _choose(self, router: str, name: str) -> None:
        if self._chosen.setdefault(name, router) != router:
            raise Invalid(
                f"parts.{router}.router: {name!r} is chosen by {self._chosen[name]!r} already",
                hint="write a second part with the same model",
            )

    def _in_order(self) -> list[str]:
        graph = {name: self._needs(part) for name, part in self._parts.items()}
        try:
            return list(TopologicalSorter(graph).static_order())
        except CycleError as problem:
            ring = " -> ".join(reversed(problem.args[1]))
            raise Invalid(
                f"parts.{problem.args[1][0]}: parts read each other in a circle: {ring}",
                hint="a composition runs each part once",
            ) from None

    def _needs(self, part: Part) -> list[str]:
        """The parts that it reads."""
        found = [name for text in _texts(part) for name in owners(text) if name in self._parts]
        for name in (*part.ensemble, *(route.part for route in part.router)):
            if name not in self._parts:
                key = "ensemble" if part.ensemble else "router"
                raise Invalid(
                    f"parts.{part.name}.{key}: there is no part {name!r}",
                    hint=f"parts are {', '.join(self._parts)}",
                )
            found.append(name)
        return list(dict.fromkeys(found))

    def _levels(self, names: list[str]) -> tuple[tuple[str, ...], ...]:
        graph = {
            name: [one for one in self._needs(self._parts[name]) if one not in self._chosen]
            for name in names
        }
        for name, router in self._chosen.items():
            graph[router] = list(dict.fromkeys([*graph[router], *graph.pop(name)]))
        sorter = TopologicalSorter(graph)
        sorter.prepare()
        levels = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=names.index)
            sorter.done(*ready)
            levels.append(tuple(ready))
        return tuple(levels)

    # -- columns --

    def _note_inputs(self, part: Part) -> None:
        """The columns of the request that a model takes as they are."""
        manifest = self._manifests.get(part.name)
        for field in () if manifest is None else manifest.signature.inputs:
            if field.name in part.inputs:
                continue
            known = self._inputs.get(field.name)
            at = f"parts.{part.name}.inputs.{field.name}"
            self._inputs[field.name] = field if known is None else _merged(known, field, at)
            self._used.add(field.name)

    def _find(self, part: str, name: str, label: str | int | None) -> Column:
        if not part or part not in self._parts:
            full = f"{part}.{name}" if part else name
            field = self._inputs.get(full)
            if field is None:
                known = f"declare it: [inputs] {full} = 'FP64'; parts are {', '.join(self._parts)}"
                raise Invalid(f"no part and no model's input is {full!r}", hint=known)
            self._used.add(full)
            return Column(("", full), field, _place(label, field, None))
        router = self._chosen.get(part)
        if router is not None:
            raise Invalid(
                f"{part!r} answers only the rows that {router!r} gives it",
                hint=f"read {router}.{name}",
            )
        step = self._steps[part]
        offered = {one.name: one for one in (*step.outputs, *step.notes)}
        if name not in offered:
            raise Invalid(
                f"part {part!r} has no output {name!r}", hint=f"it has {', '.join(offered)}"
            )
        classes = step.classes
        for target in step.targets:
            if name == f"probabilities.{target.name}":
                classes = target.classes
        return Column((part, name), offered[name], _place(label, offered[name], classes))

    # -- steps --

    def _step(self, part: Part) -> Step:
        at = f"parts.{part.name}"
        if part.model:
            return self._model(part, at)
        if part.ensemble:
            return self._ensemble(part, at)
        return self._router(part, at) if part.router else self._rules(part, at)

    def _model(self, part: Part, at: str) -> ModelStep:
        manifest = self._manifests[part.name]
        entry = manifest.program(part.program)
        signature = manifest.signature
        names = [field.name for field in signature.inputs]
        for name in part.inputs:
            if name not in names:
                raise Invalid(
                    f"{at}.inputs.{name}: the model {part.model} has no such input",
                    hint=f"it has {', '.join(names)}",
                )
        reads = signature.inputs if entry is None else entry.inputs
        feeds = tuple(
            self._feed(part, field, read.dtype, at)
            for field, read in zip(signature.inputs, reads, strict=True)
        )
        return ModelStep(
            name=part.name, outputs=signature.outputs, task=manifest.task,
            classes=manifest.classes, targets=manifest.targets, digest=part.digest, feeds=feeds,
            reads=_reads(one for feed in feeds for one in feed.sources),
        )  # fmt: skip

    def _feed(self, part: Part, field: Field, dtype: DType, at: str) -> Feed:
        at = f"{at}.inputs.{field.name}"
        said = part.inputs.get(field.name)
        if said is None:
            own = self._inputs[field.name]
            key = ("", field.name)
            source = Expression(field.name, own, (key,), lambda values: values[key])
            return Feed(field=field, dtype=dtype, sources=(source,), is_checked=False)
        texts = [said] if isinstance(said, str) else said
        sources = tuple(parse(text, self._find, at) for text in texts)
        if isinstance(said, list) and (
            field.shape != (len(said),) or any(s.field.shape for s in sources)
        ):
            raise Invalid(
                f"{at}: takes {_shape(field)} in a row, and {len(said)} columns are given"
            )
        for source in sources:
            _check_takes(field, source, at, is_list=isinstance(said, list))
        # What comes from the request as it is has been checked by the composition's own signature.
        return Feed(
            field=field, dtype=dtype, sources=sources, is_checked=_is_strict(field, sources)
        )

    def _ensemble(self, part: Part, at: str) -> EnsembleStep:
        members = [self._member(name, f"{at}.ensemble") for name in part.ensemble]
        first, *others = members
        output = "prediction"
        if first.classes is not None:
            output = "label" if part.how == "vote" else "probabilities"
        elif part.how == "vote":
            raise Invalid(
                f"{at}.how: {first.name!r} gives no labels to vote on", hint="how = 'mean'"
            )
        fields = [_output(one, output, f"{at}.ensemble") for one in members]
        for other, field in zip(others, fields[1:], strict=True):
            if other.classes != first.classes or field.shape != fields[0].shape:
                raise Invalid(
                    f"{at}.ensemble: {other.name!r} and {first.name!r} predict different things",
                    hint="members have the same classes, and outputs of one shape",
                )
        outputs: tuple[Field, ...] = (replace(fields[0], dtype=DType.FP64),)
        if first.classes is not None:
            shares = Field("probabilities", DType.FP64, (len(first.classes),))
            outputs = (_output(first, "label", at), shares)
        elif fields[0].dtype in (DType.BYTES, DType.BOOL):
            raise Invalid(f"{at}.ensemble: {first.name}.prediction is no number")
        return EnsembleStep(
            name=part.name, outputs=outputs, task=first.task, classes=first.classes,
            members=tuple(part.ensemble), how=part.how,
            weights=tuple(part.weights or [1.0] * len(members)),
            reads=tuple((one.name, output) for one in members),
        )  # fmt: skip

    def _member(self, name: str, at: str) -> Step:
        if name in self._chosen:
            raise Invalid(
                f"{at}: {name!r} answers only the rows that {self._chosen[name]!r} gives it"
            )
        return self._steps[name]

    def _router(self, part: Part, at: str) -> RouterStep:
        parts = tuple(route.part for route in part.router)
        steps = [self._steps[name] for name in parts]
        first = steps[0]
        for step in steps[1:]:
            if step.outputs != first.outputs or step.classes != first.classes:
                raise Invalid(
                    f"{at}.router: {step.name!r} has other outputs than {first.name!r}: "
                    f"{_listed(step.outputs)} in place of {_listed(first.outputs)}",
                    hint="parts of a router have outputs of one form, and the same classes",
                )
        conditions = tuple(
            condition(route.when, self._find, f"{at}.router[{place}].when")
            for place, route in enumerate(part.router[:-1], 1)
        )
        return RouterStep(
            name=part.name, outputs=first.outputs, task=first.task, classes=first.classes,
            targets=first.targets, conditions=conditions, parts=parts,
            reads=(*_reads(conditions), *(key for step in steps for key in step.reads)),
            notes=(Field("part", DType.BYTES),),
        )  # fmt: skip

    def _rules(self, part: Part, at: str) -> RulesStep:
        rows = [
            {
                name: parse(said.value, self._find, f"{at}.rules[{place}].then.{name}")
                if isinstance(said, Formula)
                else constant(said)
                for name, said in rule.then.items()
            }
            for place, rule in enumerate(part.rules, 1)
        ]
        names = list(rows[0])
        for place, row in enumerate(rows, 1):
            if set(row) != set(names) or not names:
                raise Invalid(
                    f"{at}.rules[{place}].then: gives {', '.join(row) or 'nothing'}, and row 1 "
                    f"{', '.join(names) or 'nothing'}",
                    hint="every row gives the same outputs",
                )
        then = {name: tuple(row[name] for row in rows) for name in names}
        outputs = tuple(_common(name, then[name], f"{at}.rules") for name in names)
        conditions = tuple(
            condition(rule.when, self._find, f"{at}.rules[{place}].when")
            for place, rule in enumerate(part.rules[:-1], 1)
        )
        cells = [cell for column in then.values() for cell in column]
        step = RulesStep(
            name=part.name, outputs=outputs, conditions=conditions, then=then,
            reads=_reads([*conditions, *cells]), notes=(Field("rule", DType.INT64),),
        )  # fmt: skip
        for place, example in enumerate(part.examples, 1):
            self._check_example(step, example.given, example.then, f"{at}.examples[{place}]")
        return step

    def _check_example(
        self, step: RulesStep, given: Mapping[str, Any], then: Mapping[str, Any], at: str
    ) -> None:
        fields = {key: self._field_of(key) for key in step.reads}
        values = {key: _missing_row(field) for key, field in fields.items()}
        for text, said in given.items():
            found = self._reference(text, at)
            if found.key not in values:
                raise Invalid(f"{at}.given: the rules do not read {text!r}")
            cell = values[found.key]
            try:
                if found.field.dtype is DType.BYTES and not isinstance(said, str):
                    raise ValueError
                cell[(0,) if found.place is None else (0, found.place)] = said
            except ValueError:
                raise Invalid(f"{at}.given: {said!r} is no value of {text}") from None
        with np.errstate(all="ignore"):
            made = step.run(values, 1, _run_nothing)
        for name, wanted in then.items():
            if name not in made:
                raise Invalid(f"{at}.then: the rules have no output {name!r}")
            answered = made[name][0]
            is_number = made[name].dtype.kind in "iuf" and not isinstance(wanted, str)
            if not (np.isclose(answered, wanted) if is_number else answered == wanted):
                raise Invalid(
                    f"{at}: row {int(made['rule'][0])} of the table gives {name} = "
                    f"{answered!s}, and the example says {wanted!s}",
                    hint="correct the table or the example",
                )

    def _reference(self, text: str, at: str) -> Column:
        found: list[Column] = []

        def note(part: str, name: str, label: str | int | None) -> Column:
            found.append(self._find(part, name, label))
            return found[-1]

        parse(text, note, f"{at}.given")
        if len(found) != 1:
            raise Invalid(f"{at}.given: {text!r} is no column")
        return found[0]

    def _field_of(self, key: Key) -> Field:
        part, name = key
        if not part:
            return self._inputs[name]
        step = self._steps[part]
        return next(one for one in (*step.outputs, *step.notes) if one.name == name)

    # -- outputs --

    def _outputs(self) -> tuple[tuple[Expression, ...], Step | None]:
        last = self._steps[self._document.parts[-1].name]
        said = [(one.name, one.value) for one in self._document.outputs]
        if not said and last.name in self._chosen:
            last = self._steps[self._chosen[last.name]]
        made = [
            self._named(name, parse(text, self._find, f"outputs.{name}")) for name, text in said
        ]
        if not said:
            made = [self._of_part(last, field) for field in last.outputs]
        names = [one.field.name for one in made]
        if len(set(names)) < len(names):
            raise Invalid("outputs: there are two of one name")
        if any(not one.reads for one in made):
            raise Invalid("outputs: one is a constant", hint="answer what a part gives")
        owners = {key[0] for one in made for key in one.reads}
        final = self._steps.get(owners.pop()) if len(owners) == 1 else None
        if final is not None and tuple(one.field for one in made) != final.outputs:
            final = None
        return tuple(made), final

    def _of_part(self, step: Step, field: Field) -> Expression:
        key = (step.name, field.name)
        return Expression(f"{key[0]}.{key[1]}", field, (key,), lambda values: values[key])

    def _named(self, name: str, made: Expression) -> Expression:
        return replace(made, field=replace(made.field, name=name))


def _texts(part: Part) -> list[str]:
    """Every expression that a part has."""
    made: list[str] = []
    for said in part.inputs.values():
        made += [said] if isinstance(said, str) else said
    rows: list[Route | Rule] = [*part.router, *part.rules]
    made += [row.when for row in rows if row.when]
    for rule in part.rules:
        made += [cell.value for cell in rule.then.values() if isinstance(cell, Formula)]
    return made


def _merged(known: Field, field: Field, at: str) -> Field:
    """A column of the request that several models take: what all of them take."""
    dtype = _narrower(known.dtype, field.dtype)
    categories = known.categories or field.categories
    if known.categories and field.categories:
        categories = tuple(one for one in known.categories if one in field.categories)
    bounds = known.bounds or field.bounds
    if known.bounds and field.bounds:
        pairs = known.bounds, field.bounds
        bounds = max(low for low, _ in pairs), min(high for _, high in pairs)
    dates = {one.dates for one in (known, field)} - {None}
    if dtype is None or known.shape != field.shape or len(dates) > 1 or categories == ():
        raise Invalid(
            f"{at}: takes {_shape(field)}, and another part takes {_shape(known)} of that name",
            hint="map one of them to a column of another name",
        )
    return replace(
        known, dtype=dtype, nullable=known.nullable and field.nullable, categories=categories,
        bounds=bounds, booleans=known.booleans or field.booleans, dates=next(iter(dates), None),
        optional=known.optional and field.optional,
    )  # fmt: skip


def _narrower(ours: DType, theirs: DType) -> DType | None:
    """What both take: of numbers with a point the wider, of whole ones the narrower."""
    if ours is theirs:
        return ours
    if DType.BYTES in (ours, theirs):
        return None
    if ours.is_float and theirs.is_float:
        return max(ours, theirs, key=lambda one: one.numpy.itemsize)
    if ours.is_float or theirs.is_float:
        return theirs if ours.is_float else ours
    if np.can_cast(ours.numpy, theirs.numpy):
        return ours
    return theirs if np.can_cast(theirs.numpy, ours.numpy) else None


def _check_takes(field: Field, source: Expression, at: str, *, is_list: bool) -> None:
    given, takes = source.field, field.dtype
    fits = given.shape == (() if is_list else field.shape)
    if takes is DType.BYTES or given.dtype is DType.BYTES:
        fits &= takes is given.dtype
    elif not takes.is_float:
        fits &= source.is_constant or np.can_cast(given.dtype.numpy, takes.numpy)
    if not fits:
        raise Invalid(f"{at}: takes {_shape(field)}, and {source.text} is {_shape(given)}")


def _is_strict(field: Field, sources: Iterable[Expression]) -> bool:
    """Whether values are to be looked at in each run."""
    if field.categories is not None or field.bounds is not None:
        return True
    may_miss = any(one.field.dtype.is_float or one.field.nullable for one in sources)
    return may_miss and not field.nullable


def _place(label: str | int | None, field: Field, classes: tuple[Any, ...] | None) -> int | None:
    if label is None:
        return None
    width = field.shape[0] if len(field.shape) == 1 else 0
    if classes is not None and len(classes) == width:
        if label in classes:
            return classes.index(label)
        words = [str(one) for one in classes]
        if str(label) in words:
            return words.index(str(label))
        raise Invalid(f"{field.name} has no class {label!r}", hint=f"it has {', '.join(words)}")
    if not isinstance(label, int) or not 0 <= label < width:
        raise Invalid(f"{field.name} has {width} values in a row, and none at {label!r}")
    return label


def _reads(expressions: Iterable[Expression]) -> tuple[Key, ...]:
    return tuple(dict.fromkeys(key for one in expressions for key in one.reads))


def _common(name: str, cells: tuple[Expression, ...], at: str) -> Field:
    dtypes = {cell.field.dtype for cell in cells}
    if any(cell.field.shape for cell in cells):
        raise Invalid(f"{at}: {name} has several values in a row")
    if len(dtypes) > 1 and dtypes & {DType.BYTES, DType.BOOL}:
        raise Invalid(f"{at}: {name} is {' and '.join(sorted(dtypes))} in different rows")
    if name in ("rule", "part"):
        raise Invalid(f"{at}: {name!r} is the name of what is recorded of a part")
    dtype = dtypes.pop() if len(dtypes) == 1 else DType.FP64
    return Field(name, dtype, nullable=any(cell.field.nullable for cell in cells))


def _missing_row(field: Field) -> Any:
    shape = (1, *(max(1, length) for length in field.shape))
    if field.dtype is DType.BYTES:
        return np.full(shape, None, object)
    return np.zeros(shape, bool) if field.dtype is DType.BOOL else np.full(shape, np.nan)


def _output(step: Step, name: str, at: str) -> Field:
    for field in step.outputs:
        if field.name == name:
            return field
    raise Invalid(f"{at}: {step.name!r} has no output {name!r}", hint=_listed(step.outputs))


def _listed(fields: Iterable[Field]) -> str:
    return ", ".join(f"{field.name} ({_shape(field)})" for field in fields)


def _shape(field: Field) -> str:
    return field.dtype.value + (f" of shape {list(field.shape)}" if field.shape else "")


def _dtype(name: str, at: str) -> DType:
    try:
        return DType(name)
    except ValueError:
        raise Invalid(f"{at}: no type {name!r}", hint=f"types are {', '.join(DType)}") from None


def _run_nothing(name: str, *_: Any) -> Any:
    raise AssertionError(name)
