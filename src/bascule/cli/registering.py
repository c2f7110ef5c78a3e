"""The commands that find, compare, tag, retire, collect and carry versions of the registry."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli.durations import seconds_of
from bascule.cli.screen import note, print_json, print_table, say, short, when

if TYPE_CHECKING:
    from bascule.registry import Change, Found, Registry

_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def add_commands(
    app: typer.Typer, reference: Any, registry: Callable[[], Registry], user: Callable[[], str]
) -> None:
    """Add them to `app`.

    Args:
        app: The commands so far.
        reference: The type of an argument that names a version.
        registry: Opens the registry of the settings.
        user: Who calls.
    """
    _add_search(app, registry)
    _add_diff(app, reference, registry)
    _add_tag(app, reference, registry, user)
    _add_retire(app, reference, registry, user)
    _add_gc(app, registry, user)
    _add_export(app, reference, registry)
    _add_import(app, registry, user)


def _add_search(app: typer.Typer, registry: Callable[[], Registry]) -> None:
    @app.command()
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
        as_json: _AsJson = False,
    ) -> None:
        """Find versions by tag, metric, digest, time and more; the latest first."""
        found = registry().search(" ".join(terms or []), limit=limit)
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
    version = found.version
    return {
        "model": version.model,
        "number": version.number,
        "digest": version.digest,
        "pushed_at": version.pushed_at.isoformat(),
        "pushed_by": version.pushed_by,
        "gates": version.gates,
        "retired": version.retired.reason if version.retired else None,
        "tags": dict(found.tags),
        "metrics": dict(found.metrics),
    }


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _add_diff(app: typer.Typer, reference: Any, registry: Callable[[], Registry]) -> None:
    def diff(before: str, after: str, as_json: bool = False) -> None:
        """Show what sets two versions apart: data, code, parameters, metrics, signature..."""
        opened = registry()
        old, new = opened.resolve(before, retired=True), opened.resolve(after, retired=True)
        changes = opened.compare(old, new)
        if as_json:
            print_json(
                {
                    "before": str(old),
                    "after": str(new),
                    "changes": [
                        {
                            "section": one.section,
                            "name": one.name,
                            "before": one.before,
                            "after": one.after,
                        }
                        for one in changes
                    ],
                }
            )
        elif not changes:
            note(f"{old} and {new} differ in nothing that is compared")
        else:
            print_table(("", "what", str(old), str(new), "change"), _diff_rows(changes))

    diff.__annotations__ |= {"before": reference, "after": reference, "as_json": _AsJson}
    app.command()(diff)


def _diff_rows(changes: Iterable[Change]) -> Iterable[tuple[str, ...]]:
    section = ""
    for one in changes:
        shown = one.section if one.section != section else ""
        section = one.section
        yield shown, one.name, _cell(one.before), _cell(one.after), _moved(one)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        return short(text)
    return text if len(text) <= 60 else text[:57] + "..."


def _moved(change: Change) -> str:
    old, new = change.before, change.after
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (old, new))
    if not numbers:
        return "added" if old is None else "removed" if new is None else "changed"
    share = f" ({(new - old) / abs(old):+.1%})" if old else ""
    return f"{new - old:+.6g}{share}"


def _add_tag(
    app: typer.Typer, reference: Any, registry: Callable[[], Registry], user: Callable[[], str]
) -> None:
    def tag(
        version: str, tags: list[str] | None = None, unset: bool = False, as_json: bool = False
    ) -> None:
        """Tag a version, or show its tags: bascule tag gb/3 team=risk audited=yes."""
        from bascule.core.errors import Invalid

        opened = registry()
        found = opened.resolve(version, retired=True)
        pairs: list[tuple[str, str | None]] = []
        for text in tags or []:
            key, sign, value = text.partition("=")
            if bool(sign) == unset:
                wanted = f"bascule tag {found} {key} --unset" if unset else f"{key}=VALUE"
                raise Invalid(f"tag {text!r} cannot be {'un' if unset else ''}set", hint=wanted)
            pairs.append((key, None if unset else value))
        for key, given in pairs:
            opened.set_tag(found, key, given, by=user())
        now = opened.tags(found)
        if as_json:
            print_json(now)
        else:
            say(f"{found} " + (" ".join(f"{key}={value}" for key, value in now.items()) or "-"))

    tag.__annotations__ |= {
        "version": reference,
        "tags": Annotated[
            list[str] | None,
            typer.Argument(metavar="KEY=VALUE...", help="Tags to set.", show_default=False),
        ],
        "unset": Annotated[bool, typer.Option("--unset", help="Take the named tags away.")],
        "as_json": _AsJson,
    }
    app.command()(tag)


def _add_retire(
    app: typer.Typer, reference: Any, registry: Callable[[], Registry], user: Callable[[], str]
) -> None:
    def retire(version: str, reason: str = "", undo: bool = False, as_json: bool = False) -> None:
        """Take a version out of use for a reason; its number is never used again."""
        from bascule.core.errors import Invalid
        from bascule.core.names import Reference

        named = Reference.parse(version)
        if named.number is None:
            raise Invalid(
                f"{version!r} does not say which version", hint=f"bascule retire {named.model}/3"
            )
        act = registry().restore if undo else registry().retire
        found = act(named.model, named.number, by=user(), reason=reason)
        if as_json:
            print_json({"version": str(found), "retired": not undo, "reason": reason})
        else:
            say(f"{found} {'is in use again' if undo else 'retired'}")

    retire.__annotations__ |= {
        "version": reference,
        "reason": Annotated[str, typer.Option(help="Why; whoever asks for it is told.")],
        "undo": Annotated[bool, typer.Option("--undo", help="Take it back into use.")],
        "as_json": _AsJson,
    }
    app.command()(retire)


def _add_gc(app: typer.Typer, registry: Callable[[], Registry], user: Callable[[], str]) -> None:
    @app.command()
    def gc(
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Only say what would be done.")
        ] = False,
        grace: Annotated[
            str, typer.Option(help="How long something must have been marked: 0, 30m, 24h, 7d.")
        ] = "24h",
        as_json: _AsJson = False,
    ) -> None:
        """Give back the space of bundles that no version, alias, push or running server needs."""
        found = registry().collect(by=user(), grace_s=seconds_of(grace, "--grace"), dry_run=dry_run)
        if as_json:
            print_json(
                [
                    {
                        "digest": one.digest,
                        "reason": one.reason,
                        "size_bytes": one.size_bytes,
                        "state": one.state,
                        "since": one.since.isoformat(),
                    }
                    for one in found
                ]
            )
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


def _add_export(app: typer.Typer, reference: Any, registry: Callable[[], Registry]) -> None:
    def export(version: str, file: Path, overwrite: bool = False, as_json: bool = False) -> None:
        """Write a version into one file, which another registry, or any OCI registry, can take."""
        opened = registry()
        found = opened.resolve(version)
        digest = opened.export(found, file, overwrite=overwrite)
        if as_json:
            made = {"version": str(found), "file": str(file), "digest": found.digest}
            print_json({**made, "oci_digest": digest})
        else:
            say(f"{found} -> {file}")

    export.__annotations__ |= {
        "version": reference,
        "file": Annotated[Path, typer.Argument(help="The file to make.", show_default=False)],
        "overwrite": Annotated[bool, typer.Option(help="Replace a file that is there.")],
        "as_json": _AsJson,
    }
    app.command()(export)


def _add_import(
    app: typer.Typer, registry: Callable[[], Registry], user: Callable[[], str]
) -> None:
    @app.command("import")
    def import_file(
        file: Annotated[
            Path, typer.Argument(help="What bascule export wrote.", show_default=False)
        ],
        as_json: _AsJson = False,
    ) -> None:
        """Take a version out of a file, verified; prints the number that it has here."""
        found = registry().import_archive(file, by=user())
        if as_json:
            print_json({"version": str(found), "digest": found.digest})
        else:
            say(str(found))
