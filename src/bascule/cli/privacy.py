"""The commands about people: erase them, give out what is held, attack what a model learned."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, RefOrPath, Target
from bascule.cli.screen import confirm, print_either, print_json, print_table, say
from bascule.core import Invalid, Untrusted, counted, replacing

_Subject = Annotated[
    str, typer.Argument(metavar="SUBJECT", help="The value of the field; - reads it from stdin.")
]
_Field = Annotated[str, typer.Option(help="The field that names a person, such as customer_id.")]
_Model = Annotated[str, typer.Option(help="Of one model of the ledger alone.", show_default=False)]


def erase(
    subject: _Subject,
    proof: Annotated[
        Path | None, typer.Argument(help="With `verify` as SUBJECT, the proof.", show_default=False)
    ] = None,
    field: _Field = "",
    model: _Model = "",
    dry_run: Annotated[bool, typer.Option(help="Find, and erase nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    public_key: Annotated[
        Path | None,
        typer.Option(help="Of a proof; default: beside it.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Erase a person everywhere, with a signed proof; `bascule erase verify PROOF` checks it.

    Exit code 1 where something is left, or a proof does not hold.
    """
    from bascule.privacy import content_of

    if subject == "verify" and proof is not None:
        _verify(proof, public_key, as_json=as_json)
        return
    request = _request(subject, field, model)
    if dry_run:
        places = _places(request)
        print_json(places) if as_json else _show({"places": places})
        return
    if not yes:
        confirm("Erase this person for good?")
    result = _erased(request)
    content = content_of(result["envelope"])
    if as_json:
        print_json({**result, "content": content})
    else:
        _show(content)
        say(f"proof: {result['proof']}")
    if content["left"]:
        raise typer.Exit(1)


def export(
    subject: _Subject,
    file: Annotated[Path, typer.Argument(help="Lines of JSON.")],
    field: _Field = "",
    model: _Model = "",
) -> None:
    """Write what is held about a person: answers, truths, batch rows."""
    from bascule.privacy import operations

    request = _request(subject, field, model)
    if context.is_remote():
        text = context.remote().ask(operations.EXPORT_SUBJECT, request).decode()
    else:
        rows = _held_here(request, is_export=True)
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
    with replacing(file) as draft:
        draft.touch(0o600)
        draft.write_text(text, encoding="utf-8")
    say(f"{counted(text.count(chr(10)), 'row')} in {file}")


def audit(
    bundle: RefOrPath,
    members: Annotated[Path, typer.Option(help="Rows that it was trained on, with their truth.")],
    others: Annotated[
        Path, typer.Option(help="Rows from the same source that it was not trained on.")
    ],
    target: Target = None,
    delta: Annotated[
        float | None, typer.Option(help="Default: that of the claim, or 1e-5.", show_default=False)
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the bound.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the draw of rows.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Attack a model to see which rows it was trained on: a lower bound on its epsilon."""
    from bascule.batch import read_rows, split_truth
    from bascule.bundle import load
    from bascule.bundle.statements import MEMBERSHIP_KIND
    from bascule.release import audit_membership

    version, path = context.find(bundle)
    loaded = load(path)
    pairs = [
        split_truth(read_rows(table, f"{option} table"), target, option, required=True)
        for option, table in (("--members", members), ("--others", others))
    ]
    result = audit_membership(loaded, *pairs, delta=delta, confidence=confidence, seed=seed)
    context.record("privacy audit", loaded, version, MEMBERSHIP_KIND, result.to_json())
    print_either(
        result.to_json(),
        f"epsilon is at least {result.epsilon_bound:.3g} at delta {result.delta:g} "
        f"({result.confidence:.0%} sure, {counted(result.rows, 'row')})",
        as_json=as_json,
    )


def _request(subject: str, field: str, model: str) -> dict[str, str]:
    if not field:
        raise Invalid("--field is missing", hint="name the field: --field customer_id")
    text = sys.stdin.read().strip() if subject == "-" else subject
    return {"subject": text, "field": field} | ({"model": model} if model else {})


def _places(request: dict[str, str]) -> Sequence[Mapping[str, Any]]:
    if context.is_remote():
        from bascule.privacy import operations

        return context.remote().ask(operations.FIND_SUBJECT, request).places
    return _held_here(request, is_export=False)


def _held_here(request: dict[str, str], *, is_export: bool) -> list[dict[str, Any]]:
    from bascule.jobs import Task
    from bascule.kinds import KINDS, runner_of

    content = {**KINDS["erasure"].parse(request), "is_export": is_export}
    task = Task(kind="held", input=content, by=context.user())
    held: list[dict[str, Any]] = runner_of(context.settings()).answer(task)
    return held


def _erased(request: dict[str, str]) -> dict[str, Any]:
    if context.is_remote():
        from bascule.jobs import RemoteJobs, until_ended
        from bascule.privacy import operations

        job_id = context.remote().ask(operations.ERASE, request).id
        job = until_ended(RemoteJobs(context.control_client()), job_id)
        if job.problem is not None:
            raise job.problem
    else:
        from bascule.kinds import run_job

        job = run_job("erasure", request)
    result: dict[str, Any] = job.result
    return result


def _verify(proof: Path, public_key: Path | None, *, as_json: bool) -> None:
    from bascule.privacy import verify_proof

    content = verify_proof(proof, public_key)
    if as_json:
        print_json({"content": content})
    else:
        say(f"erasure {content['erasure']}: the signature holds")
        _show(content)
    if content["left"]:
        raise Untrusted(f"something was left: {content['left'][0]}", hint="erase again")


def _show(content: Mapping[str, Any]) -> None:
    """What is held, or the content of a proof."""
    print_table(
        ("place", "rows", "outcomes", "files"),
        [
            (place["place"], f"{place['rows']:,}", f"{place['outcomes']:,}",
             f"{len(place['files']):,}")
            for place in content["places"]
        ],
        right=("rows", "outcomes", "files"), empty="nothing is held",
    )  # fmt: skip
    for what, key in (("left", "left"), ("erase elsewhere", "elsewhere")):
        for text in content.get(key, ()):
            say(f"{what}: {text}")


subject_group = context.group_of("Give out what is held about a person.", export)
privacy_group = context.group_of("Audit what a model tells of its rows.", audit)
