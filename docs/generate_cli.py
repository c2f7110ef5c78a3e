"""Writes `docs/reference/cli.md` from the commands themselves: `python docs/generate_cli.py`.

A test compares the page with what this makes, so a command cannot change without its page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer.main

from bascule.cli import commands

PAGE = Path(__file__).parent / "reference" / "cli.md"

_TOP = """\
# Commands

<!-- Written by docs/generate_cli.py. Change the command, then run it again. -->

Results go to standard output, and everything else to standard error. `--json` makes the result
one JSON document. Exit codes are in [errors](errors.md). `bascule COMMAND --help` says the same as
this page. Settings that have no option here are in [settings](settings.md).
"""


def page() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(commands.app)
    listed = "\n".join(
        f"| {'' if is_next else panel} | [`{name}`](#bascule-{name.replace(' ', '-')}) "
        f"| {_first_sentence(command.help)} |"
        for panel, is_next, name, command in _by_panel(group)
    )
    index = f"| about | command | what it does |\n|---|---|---|\n{listed}\n"
    index += f"\nFor day one: {', '.join(f'`{name}`' for name in commands.DAY_ONE)}.\n"
    own = "\n".join(["## bascule", "", *_table("option", _options(group), _option_row)])
    parts = [_TOP, index, own + "\n"]
    parts += [_command(name, command) for name, command in commands_of(group)]
    return "\n".join(parts)


def commands_of(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its name, by panel of the help; those of a group by both names."""
    panels = list(dict.fromkeys(panel for panel, _, _ in commands.PANELS))
    by_panel = sorted(
        group.commands.items(),
        key=lambda item: 0 if before else panels.index(item[1].rich_help_panel),
    )
    for name, command in by_panel:
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{before}{name} ")
        else:
            yield before + name, command


def _by_panel(group: Any) -> Iterator[tuple[str, bool, str, Any]]:
    """Every command with its panel of the help, and whether the one before is of the same."""
    before = ""
    for name, command in commands_of(group):
        panel = str(group.commands[name.partition(" ")[0]].rich_help_panel)
        yield panel, panel == before, name, command
        before = panel


def _command(name: str, command: Any) -> str:
    arguments = [param for param in command.params if _is_argument(param) and not param.hidden]
    options = _options(command)
    usage = " ".join(
        ["bascule", name, *map(_usage, arguments), *(_usage(o) for o in options if o.required)]
    )
    lines = [f"## bascule {name}", "", command.help.strip(), "", "```text"]
    lines += [f"{usage} [OPTIONS]" if any(not o.required for o in options) else usage, "```", ""]
    if arguments:
        lines += [*_table("argument", arguments, _argument_row), ""]
    if options:
        lines += [*_table("option", options, _option_row), ""]
    return "\n".join(lines)


def _is_argument(param: Any) -> bool:
    return not str(param.opts[0]).startswith("-")


def _options(command: Any) -> list[Any]:
    return [param for param in command.params if not _is_argument(param) and not param.hidden]


def _usage(param: Any) -> str:
    if not _is_argument(param):
        return f"{param.opts[0]} {_kind(param).upper()}"
    name = str(param.metavar or param.name.upper())
    return name if param.required else f"[{name}]"


def _table(heading: str, params: Sequence[Any], row: Any) -> Iterator[str]:
    extra = "" if heading == "argument" else " default |"
    yield f"| {heading} |{extra} meaning |"
    yield "|---|" + ("" if heading == "argument" else "---|") + "---|"
    yield from (row(param) for param in params)


def _argument_row(param: Any) -> str:
    return f"| `{_usage(param)}` | {_cell(param.help)} |"


def _option_row(param: Any) -> str:
    names = [*param.opts, *param.secondary_opts]
    kind = "" if getattr(param, "is_flag", False) else f" {_kind(param).upper()}"
    shown = ", ".join(f"`{name}{kind if name == names[0] else ''}`" for name in names)
    return f"| {shown} | {_default(param)} | {_cell(param.help)} |"


def _default(param: Any) -> str:
    if param.required:
        return "required"
    if param.default in (None, ""):
        return "-"
    if isinstance(param.default, bool):
        return "yes" if param.default else "no"
    return f"`{param.default}`"


def _kind(param: Any) -> str:
    annotation = param.type_descriptor.annotation
    inner = getattr(annotation, "__args__", (annotation,))[0]
    return {"str": "text", "int": "number", "float": "number"}.get(inner.__name__, "path")


def _first_sentence(text: str) -> str:
    return _cell(text.split("; ")[0].split(". ")[0].rstrip("."))


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
