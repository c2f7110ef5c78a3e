"""The commands of the registry: put versions into it, find, name, compare, tag, retire, carry."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from bascule.cli import context
from bascule.cli.building import bundle_json
from bascule.cli.context import AsJson, Reason, Ref, RefOrPath
from bascule.cli.screen import (
    note,
    print_either,
    print_json,
    print_table,
    say,
    short,
    stages,
    table,
    when,
)
from bascule.core import masked, seconds_of

if TYPE_CHECKING:
    from bascule.registry import Change, Found, Version


def push(
    path: Annotated[Path, typer.Argument(help="A bundle's folder.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Put a bundle into the registry; prints the version, such as gb/1."""
    registry = context.registry()
    version = registry.push(path, by=context.user())
    if as_json:
        # Nothing is downloaded to name a path.
        kept = None if context.is_remote() else str(registry.path_to_look_at(version))
        print_json({**_version_json(version), "path": kept})
    else:
        say(str(version))


def migrate() -> None:
    """Create the tables of the catalogue, or bring them to this release; fine where they are.

    Servers of the release before go on, and may be restarted, while and after it runs.
    """
    from bascule.app import open_catalogue
    from bascule.catalogue import HEAD

    settings = context.local_settings("migrate")
    revision = open_catalogue(settings).migrate()
    of = "this release" if revision == HEAD else "a newer release, which this one can use"
    say(f"{masked(settings.registry.store)}: the tables are those of {of} (schema {revision})")


def models(as_json: AsJson = False) -> None:
    """List the models of the registry."""
    from bascule.registry import models_table

    found = context.registry().models()
    listed = [
        {
            "name": model.name,
            "versions": model.versions,
            "newest": _version_json(model.newest),
            "aliases": {name: alias.number for name, alias in model.aliases.items()},
        }
        for model in found
    ]
    print_either(listed, models_table(found), as_json=as_json)


def show(
    model: RefOrPath,
    full: Annotated[
        bool, typer.Option("--full", help="All of its card, and the baseline.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one version in ten lines: what it takes, how good and how fast, what its gates said."""
    from bascule.cli.brief import print_brief
    from bascule.cli.showing import print_bundle, showing_json

    version, path = context.find_to_look_at(model)
    from bascule.bundle import load

    bundle = load(path)
    registry = context.registry() if version else None
    tags = registry.tags(version) if registry and version else {}
    statements = registry.statements(version) if registry and version else bundle.statements()
    others = registry.versions(version.model) if registry and version else []
    if as_json:
        shown = showing_json(bundle, version, statements)
        made = bundle_json(bundle)
        if version and context.is_remote():
            made["path"] = None  # a copy that goes when the command ends
        print_json(shown | {"tags": tags, "bundle": made})
    else:
        counting = bundle.statements() if version is None else context.statements(version)
        (print_bundle if full else print_brief)(bundle, version, counting, others)
        if version and version.deprecated:
            say_deprecated(version)
        if tags:
            say("tags       " + " ".join(f"{key}={value}" for key, value in tags.items()))


def say_deprecated(version: Version) -> None:
    """When a version ends, and who still calls it."""
    said = version.deprecated
    assert said is not None
    why = f": {said.reason}" if said.reason else ""
    say(f"deprecated {said.terms} (by {said.by}{why})")
    if context.is_remote():
        from bascule.control import operations

        callers = context.remote().ask(
            operations.CALLERS, model=version.model, number=version.number
        )
        usage = callers.sentence
    else:
        from bascule.app import usage_of

        usage = usage_of(context.settings(), version)
    say(f"callers    {usage}")


def history(model: Ref, as_json: AsJson = False) -> None:
    """List what happened to a model, the latest first."""
    from bascule.cli.showing import event_json, event_row
    from bascule.core import Reference

    name = Reference.parse(model).model
    events = sorted(context.registry().history(name), key=lambda event: event.at, reverse=True)
    shown = table(("when", "what", "by", "why"), map(event_row, events))
    print_either([event_json(event) for event in events], shown, as_json=as_json)


def alias(
    version: Ref,
    name: Annotated[
        str | None, typer.Argument(help="The alias, such as champion.", show_default=False)
    ] = None,
    drop: Annotated[bool, typer.Option(help="Drop the alias: bascule alias gb@old --drop")] = False,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Point an alias to a version: bascule alias gb/3 champion."""
    from bascule.cli.showing import event_json
    from bascule.core import Invalid, Reference

    registry, reference = context.registry(), Reference.parse(version)
    if drop:
        dropped = reference.alias or name
        if dropped is None:
            raise Invalid("which alias?", hint="bascule alias gb@old --drop")
        event = registry.drop_alias(reference.model, dropped, by=context.user(), reason=reason)
        line = f"{reference.model}@{dropped} dropped"
    elif name is None:
        raise Invalid("the alias is missing", hint="bascule alias gb/3 champion")
    else:
        target = registry.resolve(reference)
        event = registry.set_alias(
            target.model, name, target.number, by=context.user(), reason=reason
        )
        line = f"{target.model}@{name} -> {target}"
    print_either(event_json(event), line, as_json=as_json)


def _version_json(version: Version) -> dict[str, Any]:
    return {
        "model": version.model,
        "number": version.number,
        "digest": version.digest,
        "pushed_at": version.pushed_at.isoformat(),
        "pushed_by": version.pushed_by,
        "gates": version.gates,
        "retired": version.retired.reason if version.retired else None,
    }


def search(
    terms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TERMS",
            help="Such as 'metric.roc_auc >= 0.8 tag.team = risk pushed >= 7d'; all must "
            "hold. Fields: metric.NAME, tag.NAME, model, alias, gates, by, digest, pushed, "
            "retired.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="How many to show at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Find versions by tag, metric, digest, time and more; the latest first."""
    found = context.registry().search(" ".join(terms or []), limit=limit)
    if as_json:
        print_json([_found_json(one) for one in found])
        return
    if not found:
        note("no version meets that")
        return
    asked = re.findall(r"metric\.([\w.:/-]+(?:\[[^\]]*\])?)", " ".join(terms or []))
    names = list(dict.fromkeys(asked))
    rows = [
        (
            str(one.version),
            "retired" if one.version.retired else one.version.gates,
            *(_figure(one.metrics.get(name)) for name in names),
            ", ".join(f"{key}={value}" for key, value in one.tags.items()) or "-",
            short(one.version.digest),
            when(one.version.pushed_at),
            one.version.pushed_by,
        )
        for one in found
    ]
    headings = ("version", "gates", *names, "tags", "digest", "pushed", "by")
    print_table(headings, rows, right=names)
    if len(found) == limit:
        note(f"the first {limit}; --limit shows more")


def _found_json(found: Found) -> dict[str, Any]:
    return {
        **_version_json(found.version),
        "tags": dict(found.tags),
        "metrics": dict(found.metrics),
    }


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def diff(before: Ref, after: Ref, as_json: AsJson = False) -> None:
    """Show what sets two versions apart: metrics, gates, cost, signature, data, environment..."""
    opened = context.registry()
    old, new = opened.resolve(before, retired=True), opened.resolve(after, retired=True)
    changes = opened.compare(old, new)
    if as_json:
        told = [asdict(one) for one in changes]
        print_json({"before": str(old), "after": str(new), "changes": told})
    elif not changes:
        note(f"{old} and {new} differ in nothing that is compared")
    else:
        print_table(("", "what", str(old), str(new), "change"), _diff_rows(changes))


def _diff_rows(changes: Iterable[Change]) -> Iterable[tuple[str, ...]]:
    section = ""
    for one in changes:
        shown = one.section if one.section != section else ""
        section = one.section
        yield shown, one.name, _cell(one.before), _cell(one.after), one.moved


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        return short(text)
    return text if len(text) <= 60 else text[:57] + "..."


def tag(
    version: Ref,
    tags: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE...", help="Tags to set.", show_default=False),
    ] = None,
    unset: Annotated[bool, typer.Option("--unset", help="Take the named tags away.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tag a version, or show its tags: bascule tag gb/3 team=risk audited=yes."""
    from bascule.core import Invalid

    opened = context.registry()
    found = opened.resolve(version, retired=True)
    changes: dict[str, str | None] = {}
    for text in tags or []:
        key, sign, value = text.partition("=")
        if bool(sign) == unset:
            wanted = f"bascule tag {found} {key} --unset" if unset else f"{key}=VALUE"
            raise Invalid(f"tag {text!r} cannot be {'un' if unset else ''}set", hint=wanted)
        changes[key] = None if unset else value
    if changes:
        opened.change_tags(found, changes, by=context.user())
    now = opened.tags(found)
    words = " ".join(f"{key}={value}" for key, value in now.items())
    print_either(now, f"{found} {words or '-'}", as_json=as_json)


def deprecate(
    version: Ref,
    sunset: Annotated[
        str,
        typer.Option(
            help="The day on which it ends: servers then answer 410. 2027-03-01, or with a time.",
            show_default=False,
        ),
    ] = "",
    successor: Annotated[
        str, typer.Option(help="The version to use instead: late/4.", show_default=False)
    ] = "",
    reason: Annotated[str, typer.Option(help="Why; shown to callers.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Withdraw the deprecation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Announce that a version will go away: its answers say so until its sunset."""
    named = _numbered(version, "deprecate")
    opened, user = context.registry(), context.user()
    if undo:
        found = opened.undeprecate(named.model, named.number, by=user, reason=reason)
    else:
        found = opened.deprecate(
            named.model, named.number, by=user, sunset=_day(sunset), successor=successor,
            reason=reason,
        )  # fmt: skip
    said = found.deprecated
    if as_json:
        print_json({"version": str(found), "deprecated": None if said is None else asdict(said)})
    elif said is None:
        say(f"{found} is deprecated no more")
    else:
        say(f"{found} is deprecated: {said.terms}")
        note("its answers say so within seconds")


def _day(text: str) -> datetime | None:
    from bascule.core import Invalid

    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(f"--sunset: {text!r} is no date", hint="write 2027-03-01") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class _Numbered(NamedTuple):
    model: str
    number: int


def _numbered(version: str, command: str) -> _Numbered:
    """A version by its number: no alias may decide which one goes away."""
    from bascule.core import Invalid, Reference

    named = Reference.parse(version)
    if named.number is None:
        raise Invalid(
            f"{version!r} does not say which version", hint=f"bascule {command} {named.model}/3"
        )
    return _Numbered(named.model, named.number)


def retire(
    version: Ref,
    reason: Annotated[
        str, typer.Option(help="Why; shown to callers that ask for the version.")
    ] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take it back into use.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a version out of use for a reason; its number is never used again."""
    named = _numbered(version, "retire")
    opened = context.registry()
    act = opened.restore if undo else opened.retire
    found = act(named.model, named.number, by=context.user(), reason=reason)
    shown = {"version": str(found), "retired": not undo, "reason": reason}
    print_either(shown, f"{found} {'is in use again' if undo else 'retired'}", as_json=as_json)
    if servers := [] if undo else opened.servers_of(found):
        note(
            f"warning: {found} is still served by {', '.join(servers)}, until it is unloaded: "
            f"bascule unload {found}"
        )


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    grace: Annotated[
        str, typer.Option(help="How long something must have been marked: 0, 30m, 24h, 7d.")
    ] = "24h",
    as_json: AsJson = False,
) -> None:
    """Give back the space of bundles that no version, alias, push or running server needs."""
    found = context.local_registry("gc").collect(
        by=context.user(), grace_s=seconds_of(grace, "--grace"), dry_run=dry_run
    )
    if as_json:
        print_json([asdict(one) | {"since": one.since.isoformat()} for one in found])
        return
    if found:
        print_table(
            ("digest", "bytes", "state", "marked", "why"),
            [
                (short(x.digest), f"{x.size_bytes:,}", x.state, when(x.since), x.reason)
                for x in found
            ],
            right=("bytes",),
        )
    removed = sum(one.size_bytes for one in found if one.state == "removed")
    would = "would give" if dry_run else "gave"
    say(f"{would} back {removed:,} bytes")
    if any(one.state == "marked" for one in found):
        note(f"what is marked goes when it has been marked for {grace}: run it again then")


def export(
    version: Ref,
    file: Annotated[Path, typer.Argument(help="The file to make.", show_default=False)],
    overwrite: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a version into one file, which another registry, or any OCI registry, can take."""
    opened = context.registry()
    found = opened.resolve(version)
    digest = opened.export(found, file, overwrite=overwrite)
    shown = {"version": str(found), "file": str(file), "digest": found.digest, "oci_digest": digest}
    print_either(shown, f"{found} -> {file}", as_json=as_json)


def import_(
    file: Annotated[Path, typer.Argument(help="What bascule export wrote.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Take a version out of a file, verified; prints the number that it has here."""
    found = context.registry().import_archive(file, by=context.user())
    print_either({"version": str(found), "digest": found.digest}, str(found), as_json=as_json)


def push_mlflow(
    bundle: RefOrPath,
    uri: Annotated[
        str | None,
        typer.Option(help="MLflow's tracking server. Default: MLFLOW_TRACKING_URI."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="What its registry calls the model. Default: the bundle's name."),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="The run that it is logged to. Default: a new one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put a bundle into MLflow's registry as a model, which our program answers."""
    from bascule.mlflow import push

    _, path = context.find(bundle)
    with stages(quiet=as_json) as tell:
        made = push(path, uri=uri, registered_model_name=name, run_id=run)
        tell(f"logged to run {made.run_id}")
    shown = {"name": made.name, "version": made.version, "run": made.run_id}
    print_either(shown | {"model_uri": made.model_uri}, made.model_uri, as_json=as_json)
