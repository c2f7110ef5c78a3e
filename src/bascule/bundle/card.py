"""The card: what a person wants to know of a bundle, from what was measured.

`sections` says it as values, `render` as Markdown, `card_page` with the plots, as a document. The
author's text has a section of its own, as a quotation, so that a claim is not mistaken for a
measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bascule.bundle.choosing import Roles, roles
from bascule.bundle.disk import (
    CLASSIFICATIONS,
    GENERATION,
    ISOLATED,
    ORIGINAL,
    OUTLIERS,
    RANKING,
    REGRESSIONS,
    SURVIVAL,
    TEST_DATA,
    Manifest,
    Statement,
)
from bascule.bundle.explaining import IMPORTANCE_KIND
from bascule.bundle.originals import is_inspected
from bascule.bundle.statements import BATCH_SIZES, Cost, Parity
from bascule.charts import within
from bascule.core import Field, counted, duration_words
from bascule.documents import (
    Block,
    Bullets,
    Document,
    Figures,
    Line,
    Plot,
    Plots,
    Quote,
    Section,
    Table,
    Text,
    markdown,
    section_json,
    verdict,
    words,
)

_MAX_FIELDS = 60
_MAX_SHOWN = 20
_SMALL_SLICE_ROWS = 50


@dataclass(frozen=True, slots=True)
class Said:
    """The statements of a bundle, by kind; missing ones are empty.

    Attributes:
        parities: How equal each program is to the original, by its name.
        cost: What it takes.
        provenance: Where it came from.
        training: The training rows, column by column.
        quality: Metrics on held-out rows, overall and by slice.
        fairness: Rates by group of protected attributes, on held-out rows.
        production: The same, of answers in production.
        gates: The last verdict.
        calibration: What prediction sets and intervals are made with.
        importances: What each column adds to answers, over many rows.
        by: Who packed it.
        at: When.
    """

    parities: Mapping[str, Parity] = field(default_factory=dict)
    cost: Cost | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    fairness: Mapping[str, Any] = field(default_factory=dict)
    production: Mapping[str, Any] = field(default_factory=dict)
    gates: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    importances: Mapping[str, Any] = field(default_factory=dict)
    by: str = ""
    at: str = ""

    @classmethod
    def of(cls, statements: Sequence[Statement]) -> Said:
        """The latest statement of each kind."""
        in_order = sorted(statements, key=lambda one: one.at)
        latest = {one.kind: one for one in in_order}
        compared = [Parity.from_json(one.body) for one in in_order if one.kind == "parity"]
        bodies = {kind: one.body for kind, one in latest.items()}
        origin = latest.get("provenance")
        return cls(
            parities={parity.program: parity for parity in compared},
            cost=Cost.from_json(bodies["cost"]) if "cost" in bodies else None,
            provenance=bodies.get("provenance", {}),
            training=bodies.get("training", {}),
            quality=bodies.get("quality", {}),
            fairness=bodies.get("fairness", {}),
            production=bodies.get("production_fairness", {}),
            gates=bodies.get("gates", {}),
            calibration=bodies.get("calibration", {}),
            importances=bodies.get(IMPORTANCE_KIND, {}),
            by=origin.by if origin else "",
            at=origin.at if origin else "",
        )


def sections(manifest: Manifest, said: Said) -> tuple[Section, ...]:
    """The card as values, without the sections of which nothing is known. Pure."""
    made = (
        Section("At a glance", _glance(manifest, said)),
        Section("Intended use", _use(manifest, said)),
        Section("In the author's words", _words(said)),
        Section("Inputs", _inputs(manifest, said)),
        Section("Outputs", (_fields(manifest.signature.outputs),)),
        Section("Quality", _quality(said)),
        Section("Fairness", fairness_blocks(said.fairness)),
        Section("Fairness in production", fairness_blocks(said.production)),
        Section("Gates", _gates(said)),
        Section("Limits", _limits(manifest, said)),
        Section("Parity", _parity(manifest, said)),
        Section("Calibration", _calibration(said)),
        Section("Explanations", _explanations(said)),
        Section("Cost", _cost(said)),
        Section("Lineage", _lineage(manifest, said)),
    )
    return tuple(section for section in made if section.blocks)


def overview(manifest: Manifest, said: Said) -> tuple[tuple[str, Line], ...]:
    """The few figures that a reader asks for first: what they are, and their values."""
    made: list[tuple[str, Line]] = [("task", manifest.task)]
    made += [
        (name.replace("_", " "), _number(value))
        for name, value in list(said.quality.get("overall", {}).items())[:3]
    ]
    if said.training:
        made.append(("training rows", f"{said.training['rows']:,}"))
    if said.quality:
        made.append(("held-out rows", f"{said.quality['rows']:,}"))
    if said.gates:
        made.append(("gates", verdict(said.gates.get("passed"))))
    served = _roles(manifest, said).requests if manifest.served else ORIGINAL
    if said.cost and 1 in said.cost.latency_us.get(served, {}):
        made.append(("one row", duration_words(said.cost.latency_us[served][1] * 1e-6)))
    made.append(("size", f"{manifest.size_bytes / 1e6:,.2f} MB"))
    return tuple(made)


def card_json(manifest: Manifest, said: Said) -> dict[str, Any]:
    """The card for programs: an overview, and each section with its blocks."""
    return {
        "name": manifest.name,
        "digest": manifest.digest,
        "overview": {name: words(value) for name, value in overview(manifest, said)},
        "sections": [section_json(section) for section in sections(manifest, said)],
    }


def render(manifest: Manifest, said: Said) -> str:
    """The card as Markdown."""
    return markdown(Document(manifest.name, sections(manifest, said)))


def card_page(manifest: Manifest, said: Said, plots: Sequence[Plot] = ()) -> Document:
    """The card with its overview, and with plots such as `card_plots.plots` makes."""
    lead = (Figures(overview(manifest, said)),)
    shown = sections(manifest, said)
    return Document(manifest.name, tuple(_with_plots(one, plots) for one in shown), lead)


def _with_plots(section: Section, plots: Sequence[Plot]) -> Section:
    here = tuple(plot for plot in plots if plot.section == section.title)
    shown = Plots(here, are_small=section.title == "Inputs")
    return replace(section, blocks=(*section.blocks, shown)) if here else section


def _glance(manifest: Manifest, said: Said) -> tuple[Block, ...]:
    rows: list[tuple[str, Line]] = [
        ("digest", manifest.digest),
        ("flavor", manifest.flavor),
        ("task", manifest.task),
        *_serves(manifest, said),
    ]
    if manifest.classes is not None:
        rows.append(("classes", _listed([str(label) for label in manifest.classes])))
    for target in manifest.targets:
        labels = _listed([str(label) for label in target.classes or ()])
        rows.append((f"output {target.name}", labels or "a number"))
    if said.gates:
        rows.append(("gates", verdict(said.gates.get("passed"))))
    return (Table(("", ""), tuple(rows)),)


def _serves(manifest: Manifest, said: Said) -> list[tuple[str, str]]:
    """Which program answers, by the times that were measured: they decide where it runs too."""
    served = manifest.served
    if served is None:
        return [("serves", "the original")]
    if said.cost is None or _roles(manifest, said).batches == ((1, served.name),):
        return [("serves", f"{served.name} in {served.precision}")]
    chosen = _roles(manifest, said)
    entry = manifest.program(chosen.requests) or served
    where = "" if entry is served else f"; where that cannot run, {served.name}"
    measured = said.cost.machine.get("cpu", "an unknown processor")
    return [
        ("serves requests", f"{entry.name} in {entry.precision}{where}"),
        ("runs batches", chosen.batches_in_words()),
        ("chosen by", f"the times measured on {measured}"),
    ]


def _roles(manifest: Manifest, said: Said) -> Roles:
    latency_us = {} if said.cost is None else said.cost.latency_us
    last = ORIGINAL if is_inspected(manifest.original) else ISOLATED
    return roles([entry.name for entry in manifest.programs], latency_us, last=last)


def _use(manifest: Manifest, said: Said) -> tuple[Block, ...]:
    if manifest.task == GENERATION:
        return (Text("Takes a prompt or a conversation, and answers with a text."),)
    inputs = manifest.signature.inputs
    width = inputs[0].shape[0] if manifest.signature.is_matrix else len(inputs)
    answers = {
        "classification": f"tells to which of {len(manifest.classes or ())} classes each belongs",
        "regression": "estimates one number for each",
        OUTLIERS: "tells whether each is an inlier (1) or an outlier (-1), by a score that is "
        "below 0 for an outlier",
        CLASSIFICATIONS: f"tells to which classes each belongs, in {len(manifest.targets)} ways",
        REGRESSIONS: f"estimates {len(manifest.targets)} numbers for each",
        RANKING: "orders the rows of a query by a number, the largest first",
        SURVIVAL: "estimates which ends first (risk), or when (time)",
    }.get(manifest.task, "answers each")
    trained = ""
    if said.training:
        trained = f" It was trained on {counted(said.training['rows'], 'row')}"
        held_out = said.provenance.get("test")
        trained += f" and measured on {held_out['rows']:,} others." if held_out else "."
    return (
        Text(
            f"Takes rows of {counted(width, 'column')} and {answers}.{trained} "
            "It is meant for rows like those: from the same source, with values in the ranges "
            "under Inputs."
        ),
    )


def _words(said: Said) -> tuple[Block, ...]:
    words = str(said.provenance.get("description") or "").strip()
    return (Quote(words, said.by),) if words else ()


def _inputs(manifest: Manifest, said: Said) -> tuple[Block, ...]:
    told: Mapping[str, Any] = said.training.get("columns", {})
    if not told:
        return (_fields(manifest.signature.inputs),)
    by_name = {one.name: one for one in manifest.signature.inputs}
    rows = []
    for name in _in_order(manifest, told)[:_MAX_FIELDS]:
        column = told[name]
        known = by_name.get(name, manifest.signature.inputs[0])
        rows.append(
            (
                name,
                known.dtype.value,
                "yes" if known.nullable else "no",
                f"{column['missing']:.1%}",
                _range(column, known),
                _usual(column),
            )
        )
    heads = ("name", "type", "may be missing", "was missing", "trained on", "usual (5% to 95%)")
    blocks: list[Block] = [Table(heads, tuple(rows), ("was missing",))]
    if len(told) > _MAX_FIELDS:
        blocks.append(Text(f"And {len(told) - _MAX_FIELDS} more columns."))
    return tuple(blocks)


def _in_order(manifest: Manifest, told: Mapping[str, Any]) -> list[str]:
    """Columns as they were trained on: JSON has put their names into the order of the alphabet."""
    signature = manifest.signature
    known = signature.columns if signature.is_matrix else [one.name for one in signature.inputs]
    place = {name: index for index, name in enumerate(known)}
    return sorted(told, key=lambda name: (place.get(name, len(place)), len(name), name))


def _range(column: Mapping[str, Any], known: Field) -> str:
    if known.categories is not None:
        return f"only {_listed([str(one) for one in known.categories])}"
    if column.keys() >= {"min", "max"}:
        return f"{column['min']:.6g} to {column['max']:.6g}"
    if "values" in column:
        return _listed(column["values"])
    return f"{column.get('distinct', 0):,} texts"


def _usual(column: Mapping[str, Any]) -> str:
    return f"{column['p05']:.6g} to {column['p95']:.6g}" if column.keys() >= {"p05", "p95"} else "-"


def _fields(fields: Sequence[Field]) -> Table:
    rows = tuple(
        (
            one.name,
            one.dtype.value,
            " x ".join(str(length) for length in one.shape) or "1",
            "yes" if one.nullable else "no",
        )
        for one in fields[:_MAX_FIELDS]
    )
    return Table(("name", "type", "per row", "may be missing"), rows)


def _quality(said: Said) -> tuple[Block, ...]:
    blocks: list[Block] = []
    overall = said.quality.get("overall", {})
    if overall:
        rows = tuple((name, _number(value)) for name, value in overall.items())
        blocks.append(Text(f"On {said.quality['rows']:,} held-out rows, by the program served:"))
        blocks.append(Table(("metric", "value"), rows, ("value",)))
    if said.quality.get("targets"):
        blocks.append(Text("Those are of the worst output; each by itself:"))
        each = tuple(
            (name, *(_number(found.get(metric)) for metric in overall))
            for name, found in said.quality["targets"].items()
        )
        blocks.append(Table(("output", *overall), each, tuple(overall)))
    for column, slices in said.quality.get("slices", {}).items():
        metrics = tuple(overall)
        rows = tuple(
            (value, f"{one['rows']:,}", *(_number(one["metrics"].get(name)) for name in metrics))
            for value, one in slices.items()
        )
        blocks.append(Table((column, "rows", *metrics), rows, ("rows", *metrics)))
    if said.provenance.get("metrics"):
        rows = tuple((name, f"{value}") for name, value in said.provenance["metrics"].items())
        blocks.append(Text("As the author gave them, and not measured here:"))
        blocks.append(Table(("metric", "value"), rows, ("value",)))
    return tuple(blocks)


def fairness_blocks(body: Mapping[str, Any]) -> tuple[Block, ...]:
    """The groups of a `fairness` statement with their rates, and how far they lie apart."""
    if not body:
        return ()
    selected = f"; selected is {body['positive']}" if body.get("positive") is not None else ""
    size = counted(body["rows"], "row")
    blocks: list[Block] = [Text(f"{size} of the {body['source']}{selected}")]
    if age_s := body.get("truths_within_s"):
        blocks.append(Text(f"truths at equal age: those within {duration_words(age_s)}"))
    for attribute, measured in body["attributes"].items():
        rates = list(next(iter(measured["groups"].values()))["rates"])
        rows = tuple(
            (
                group, f"{one['rows']:,}",
                *(_estimated(one["rates"][rate]) for rate in rates),
            )
            for group, one in measured["groups"].items()
        )  # fmt: skip
        headings = ("rows", *(rate.replace("_", " ") for rate in rates))
        blocks.append(Table((attribute, *headings), rows, headings))
        apart = tuple(
            (
                name,
                _estimated(one),
                f"{one['least']}: least, {one['most']}: most" if one["most"] else one["note"],
                ", ".join(one["too_few"]) or "-",
            )
            for name, one in measured["disparities"].items()
        )
        blocks.append(Table(("disparity", "95 % interval", "groups", "too few to say"), apart))
    return tuple(blocks)


def _estimated(one: Mapping[str, Any]) -> str:
    if one["value"] is None:
        return "-"
    if not one.get("enough", True):
        return f"{one['value']:.3f}, too few to say"
    return f"{one['value']:.3f} ({one['lower']:.3f} to {one['upper']:.3f})"


def _gates(said: Said) -> tuple[Block, ...]:
    results = said.gates.get("results", ())
    return (gates_table(results, digits=4),) if results else ()


def gates_table(results: Sequence[Mapping[str, Any]], *, digits: int = 6) -> Table:
    """The criteria of a gates statement: the value of each, the verdict and why."""
    rows = tuple(
        (
            str(one["criterion"]),
            "-" if one.get("value") is None else f"{one['value']:.{digits}g}",
            verdict(one["passed"]),
            str(one.get("reason", "-")),
        )
        for one in results
    )
    return Table(("criterion", "value", "verdict", "reason"), rows, ("value",))


def _limits(manifest: Manifest, said: Said) -> tuple[Block, ...]:
    """What follows from the measurements, one sentence each."""
    items = []
    required = [one.name for one in manifest.signature.inputs if not one.nullable]
    if required:
        what = "every column" if len(required) == len(manifest.signature.inputs) else ""
        items.append(f"Refuses a row without {what or _listed(required)}.")
    closed = [one.name for one in manifest.signature.inputs if one.categories is not None]
    if closed:
        items.append(f"Refuses values that it was not trained on in {_listed(closed)}.")
    if said.training:
        items.append("Outside the ranges of its training rows nothing was measured.")
    if not said.quality.get("overall"):
        items.append(f"Its quality was not measured{_why_not(manifest, said)}.")
    small = [
        f"{column}={value}"
        for column, slices in said.quality.get("slices", {}).items()
        for value, one in slices.items()
        if one["rows"] < _SMALL_SLICE_ROWS
    ]
    if small:
        items.append(
            f"Fewer than {_SMALL_SLICE_ROWS} rows stand behind the figures of {_listed(small)}."
        )
    overlap = said.quality.get("train_test_overlap")
    if overlap:
        items.append(
            f"{overlap:.1%} of the held-out rows have the same inputs as a training row. If they "
            "are the same cases, the figures flatter it."
        )
    served = manifest.served
    if served is None:
        items.append("The original answers, slower: no program was equal to it.")
    elif not (manifest.program(_roles(manifest, said).requests) or served).batch_invariant:
        items.append(
            "A row's answer may differ in its last bits by the rows that it is asked with."
        )
    return (Bullets(tuple(items)),) if items else ()


def _why_not(manifest: Manifest, said: Said) -> str:
    held_out = said.provenance.get("test") or {}
    if TEST_DATA not in manifest.files or not held_out.get("truth", True):
        return ": the bundle holds no rows with their truth"
    if manifest.task == "other":
        return ": a model whose task is other has no known measure of quality"
    rows = f"{held_out['rows']:,} " if held_out else ""
    return f" yet: bascule card measures it on the {rows}held-out rows"


def _parity(manifest: Manifest, said: Said) -> tuple[Block, ...]:
    known = said.parities
    if not known:
        return ()
    named = {"onnx", ORIGINAL, *(entry.name for entry in manifest.programs)}
    items = []
    for name, parity in known.items():
        if name not in named:
            continue
        reason = _text(parity.reason)
        whose = f"{name}: " if len(manifest.programs) > 1 else ""
        shown = f"{whose}{reason}" if whose else f"{reason[:1].upper()}{reason[1:]}"
        items.append(f"{shown} (tolerance {parity.tolerance:g}).")
    return (Text(items[0]),) if len(items) == 1 else (Bullets(tuple(items)),) if items else ()


def parity_plot(parities: Mapping[str, Parity]) -> Plot:
    """How far each program is from the original, beside its tolerance; of at least one."""
    rows = [(one.program, one.max_difference, one.tolerance) for one in parities.values()]
    alt = "; ".join(f"{name}: {value:.2g} of {limit:.2g} allowed" for name, value, limit in rows)
    most = max(one.rows for one in parities.values())
    caption = (
        f"The largest difference from the original over {most:,} rows, by program, in powers of "
        "ten. Dashed: the tolerance."
    )
    return Plot("Parity", caption, within(rows, f"Parity: {alt}"), "Parity")


def _calibration(said: Said) -> tuple[Block, ...]:
    told = said.calibration.get("told")
    return (Text(_sentence(told)),) if told else ()


def _explanations(said: Said) -> tuple[Block, ...]:
    measured = said.importances
    if not measured:
        return ()
    ranked = measured["importances"]
    rest = f" {len(ranked) - _MAX_SHOWN} more columns add less." if ranked[_MAX_SHOWN:] else ""
    text = (
        f"The mean size of what each column adds to an answer, in {measured['unit']}, over "
        f"{measured['rows']:,} {measured['source']} rows; {measured['method']}.{rest} It is what "
        "the model uses, not what causes the outcome."
    )
    rows = tuple((name, _number(value)) for name, value in ranked[:_MAX_SHOWN])
    heads = ("column", "mean |attribution|")
    return (Text(text), Table(heads, rows, heads[1:]))


def _cost(said: Said) -> tuple[Block, ...]:
    cost = said.cost
    if cost is None:
        return ()
    sizes = [
        size
        for size in sorted({*BATCH_SIZES, *(s for one in cost.latency_us.values() for s in one)})
        if all(size in one for one in cost.latency_us.values())
    ]
    heads = ("a batch of", *(f"{size:,}" for size in sizes))
    rows = tuple(
        (program, *(duration_words(times[size] * 1e-6) for size in sizes))
        for program, times in cost.latency_us.items()
    )
    memory = (
        "was not measured"
        if cost.peak_memory_bytes is None
        else f"{cost.peak_memory_bytes / 1e6:,.0f} MB"
    )
    return (
        Table(heads, rows, heads[1:]),
        Text(
            f"Peak memory of a process {memory}; on disk {cost.size_bytes / 1e6:,.2f} MB; measured "
            f"on {cost.machine.get('cpu', 'an unknown processor')}, one thread."
        ),
    )


def _lineage(manifest: Manifest, said: Said) -> tuple[Block, ...]:
    known = said.provenance
    rows: list[tuple[str, str]] = []
    if said.by:
        rows.append(("packed", f"by {said.by}, {said.at[:19].replace('T', ' ')} UTC"))
    if git := known.get("git"):
        rows.append(("git", git["commit"] + (", with changes" if git["dirty"] else "")))
    rows += [
        (f"{name} rows", f"{known[name]['rows']:,}, {known[name]['sha256']}")
        for name in ("train", "test", "calibration")
        if known.get(name)
    ]
    rows += [(name, version) for name, version in sorted(manifest.original.requires.items())]
    rows += [(name, f"{value}") for name, value in (known.get("parameters") or {}).items()]
    for source in known.get("lineage", ()):
        rows += lineage_lines(source)[:_MAX_FIELDS]
    blocks: list[Block] = [Table(("", ""), tuple(rows))] if rows else []
    settings = list((known.get("model_parameters") or {}).items())
    if settings:
        blocks.append(Text("Settings of the model:"))
        blocks.append(
            Table(("setting", "value"), tuple((n, str(v)) for n, v in settings[:_MAX_FIELDS]))
        )
    return tuple(blocks)


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _MAX_SHOWN} more" if len(texts) > _MAX_SHOWN else ""
    return ", ".join(texts[:_MAX_SHOWN]) + more


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"


def _sentence(text: str) -> str:
    text = _text(text)
    return text[:1].upper() + text[1:] + "."


def _text(text: str) -> str:
    return " ".join(str(text).split())


def lineage_lines(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One source for people: what, and its value, one line each. Pure."""
    kind = str(entry.get("kind", ""))
    facts = {name: value for name, value in entry.items() if name != "kind"}
    return [(f"{kind} {name}", text) for name, text in _flat_facts(facts)]


def _flat_facts(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    made: list[tuple[str, str]] = []
    for name, one in value.items():
        if isinstance(one, Mapping):
            made += [(f"{name} {inner}", text) for inner, text in _flat_facts(one)]
        elif isinstance(one, list):
            for place, part in enumerate(one, 1):
                parts = part if isinstance(part, Mapping) else {"": part}
                made += [(f"{name} {place} {i}".rstrip(), text) for i, text in _flat_facts(parts)]
        elif one not in (None, ""):
            made.append((name, str(one)))
    return made
