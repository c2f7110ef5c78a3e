"""Facts and answers to a document, with what is missing and who must write it. Pure but for files.

A fact that is not there is missing: no section is left out, and nothing is filled in.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bascule.bundle import Manifest, Said
from bascule.core import Invalid, NotFound
from bascule.documents import Block, Document, Quote, Section, Span, Table, Text, strong

Facts = Mapping[str, tuple[Block, ...]]
"""What is known, by name, as blocks of a document."""
_TASKS = {
    "classification": "tabular-classification", "regression": "tabular-regression",
    "generation": "text-generation",
}  # fmt: skip
_LISTS = Path(__file__).parent / "lists"

EVIDENCE: Mapping[str, str] = {
    "in-the-author-s-words": "bascule pack --description TEXT",
    "lineage": "pack with the training rows (--train) and in a git checkout",
    "quality": "bascule card MODEL",
    "gates": "bascule check MODEL",
    "cost": "bascule pack, which measures it",
    "calibration": "pack with held-out rows and their truth",
    "fairness": "bascule fairness MODEL --attribute COLUMN",
    "robustness": "a gate on robust_accuracy: bascule check MODEL",
    "explanations": "pack with explanations",
    "privacy": "bascule privacy audit MODEL",
    "signatures": "bascule sign, bascule passport write",
    "approvals": "bascule alias MODEL/NUMBER NAME",
    "endpoints": "bascule deploy MODEL/NUMBER",
    "logs": "serve it with monitoring.ledger",
    "gaps": "serve it with monitoring.ledger",
    "monitoring": "serve it with monitoring.ledger",
    "performance": "bascule outcomes add",
    "audit": "set audit.anchors",
    "alerts": "set alerts.watch, or name a receiver in alerts.receivers",
    "private-fields": "set monitoring.private",
}
"""How a fact that is missing comes about."""


class SectionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One section of a list.

    Attributes:
        id: Stays the same in all editions: answers name it.
        title: Its heading.
        norm: The article that asks for it.
        facts: The names of facts that prove it; see `gathering`.
        ask: What a person must write; empty where facts are enough.
        who: Who must write it.
    """

    id: str
    title: str
    norm: str
    facts: tuple[str, ...] = ()
    ask: str = ""
    who: str = ""


class DocumentList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document as a list of sections."""

    title: str
    norm: str
    sections: tuple[SectionSpec, ...]


class Missing(msgspec.Struct, frozen=True):
    """Something that a document lacks: which section, what, who provides it, and how."""

    section: str
    what: str
    who: str
    how: str


def known_lists(own: Iterable[Path] = ()) -> dict[str, Path]:
    """The files of lists by the name of their document; a user's own goes before one of ours."""
    return {file.stem: file for file in (*sorted(_LISTS.glob("*.toml")), *own)}


def read_list(name: str, own: Iterable[Path] = ()) -> DocumentList:
    """Raises `NotFound` for a name without a list, and `Invalid` for a file that is none."""
    files = known_lists(own)
    if name not in files:
        raise NotFound(
            f"there is no document {name!r}",
            hint=f"one of {', '.join(files)}; documents.lists of bascule.toml adds others",
        )
    spec: DocumentList = _read(files[name], DocumentList)
    return spec


def read_answers(file: Path, name: str, spec: DocumentList) -> dict[str, str]:
    """What people wrote for a document, by section: for any, and before it for this one.

    Nothing where there is no file yet.

    Raises:
        Invalid: The file is malformed, or has an answer to a section that the list lacks.
    """
    answers = _read(file, dict[str, dict[str, str]]) if file.exists() else {}
    own, known = answers.get(name, {}), [section.id for section in spec.sections]
    if unknown := own.keys() - set(known):
        raise Invalid(
            f"the answers of {name} name {min(unknown)!r}, which is no section of it",
            hint=f"one of {', '.join(known)}",
        )
    return {**answers.get("any", {}), **own}


def draft(
    name: str, spec: DocumentList, facts: Facts, answers: Mapping[str, str], *, about: str,
    now: datetime,
) -> tuple[Document, list[Missing]]:  # fmt: skip
    """The document of a list, and what it lacks.

    Args:
        name: Of the document.
        spec: Its list.
        facts: What is known.
        answers: What people wrote, by section.
        about: The version.
        now: The date of the document.
    """
    sections, missing = [], list[Missing]()
    for section in spec.sections:
        text, lacks = answers.get(section.id, ""), list(_lacks(name, section, facts, answers))
        missing += lacks
        # The first column is not wrapped.
        rows = tuple((lack.who, Span(lack.what, "bad"), lack.how) for lack in lacks)
        blocks = (
            Text((strong(section.norm),)),
            *(block for fact in section.facts for block in facts.get(fact, ())),
            *([Quote(text, section.who)] if text else ()),
            *([Table(("who", "missing", "how"), rows)] if rows else ()),
        )
        sections.append(Section(section.title, blocks))
    state = f"{len(missing)} parts are missing" if missing else "no part is missing"
    lead = Text((f"{spec.norm}. {about}, {now:%Y-%m-%d %H:%M} UTC: ",
                 Span(state, "bad" if missing else "good"), "."))  # fmt: skip
    return Document(spec.title, tuple(sections), (lead,)), missing


def front_matter(manifest: Manifest, known: Said, version: str, licence: str = "") -> str:
    """The metadata of a model card for the Hub of Hugging Face, as YAML between lines of dashes.

    `model-index` has the metrics on held-out rows. `licence` is an identifier of the Hub, such as
    `apache-2.0`; if empty, that of the weights as they were packed.
    """
    import yaml

    task = _TASKS.get(manifest.task, "")
    metrics = [
        {"type": name, "name": name, "value": float(f"{value:.6g}")}
        for name, value in known.quality.get("overall", {}).items() if value is not None
    ]  # fmt: skip
    tags = list(dict.fromkeys((manifest.flavor, manifest.task)))
    data: dict[str, Any] = {"library_name": "bascule", "tags": tags}
    declared = str(known.provenance.get("model_parameters", {}).get("licence", ""))
    if licence := licence or declared.lower().replace("not known", ""):
        data["license"] = licence
    if task:
        data["pipeline_tag"] = task
    if metrics:
        rows = {"type": "held-out", "name": f"{known.quality['rows']:,} held-out rows"}
        result = {"task": {"type": task or "other"}, "dataset": rows, "metrics": metrics}
        data["model-index"] = [{"name": version, "results": [result]}]
    return f"---\n{yaml.safe_dump(data, sort_keys=False)}---\n\n"


def _lacks(
    name: str, section: SectionSpec, facts: Facts, answers: Mapping[str, str]
) -> Iterator[Missing]:
    for fact in section.facts:
        if not facts.get(fact):
            how = EVIDENCE.get(fact, f"a statement of the kind {fact}")
            yield Missing(section.id, f"evidence: {fact}", "operator of the model", how)
    if section.ask and not answers.get(section.id, "").strip():
        where = f'[{name}] {section.id} = "..." in the answers'
        yield Missing(section.id, section.ask, section.who, where)


def _read(file: Path, kind: Any) -> Any:
    try:
        return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), kind)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise Invalid(f"{file} cannot be read: {problem}", hint="mend that line") from None
    except msgspec.ValidationError as problem:
        raise Invalid(
            f"{file}: {problem}", hint="see docs/how-to/write-compliance-documents.md"
        ) from None
