"""Writes `docs/reference/cli.md` from the commands themselves: `python docs/generate_cli.py`.

A test compares the page with what this makes, so a command cannot change without its page.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from bascule.cli import commands

PAGE = Path(__file__).parent / "reference" / "cli.md"

_TOP = """\
# Commands: every option of bascule

<!-- Written by docs/generate_cli.py. Change the command, then run it again. -->

Results go to standard output, everything else to standard error. `--json` prints the result as
one JSON document. Exit codes are in [errors](errors.md), settings without an option in
[settings](settings.md). `bascule COMMAND --help` prints the same as this page. In brackets stands
the default of an option.
"""
_SHARED = 3
"""Arguments and options that so many commands have are explained once."""


def page() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(commands.app)
    listed = dict(commands_of(group))
    shared = _shared(list(listed.values()))
    index = [f"For day one: {', '.join(f'`{name}`' for name in commands.DAY_ONE)}.", ""]
    index += [f"- **{panel}**: {', '.join(links)}" for panel, links in _by_panel(group).items()]
    own = ["", "## bascule", "", *map(_line, _params(group))]
    once = ["", "## Options of many commands", "", *sorted(shared, key=_name_first), ""]
    parts = [_TOP, "\n".join([*index, *own, *once])]
    return "\n".join([*parts, *(_command(*item, shared) for item in listed.items())])


def commands_of(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its name, by panel of the help; those of a group by both names."""
    panels = list(dict.fromkeys(panel for panel, *_ in commands.PANELS))
    by_panel = sorted(
        group.commands.items(),
        key=lambda item: 0 if before else panels.index(item[1].rich_help_panel),
    )
    for name, command in by_panel:
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{before}{name} ")
        else:
            yield before + name, command


def _shared(listed: list[Any]) -> set[str]:
    """Of each name the line that most commands have, where many have it."""
    counts = Counter(_line(param) for command in listed for param in _params(command))
    most = {
        line.partition("`")[2].partition("`")[0]: line for line, _ in reversed(counts.most_common())
    }
    return {line for line in most.values() if counts[line] >= _SHARED}


def _by_panel(group: Any) -> dict[str, list[str]]:
    """Links to the commands of each panel of the help."""
    links: dict[str, list[str]] = {}
    for name, _ in commands_of(group):
        panel = str(group.commands[name.partition(" ")[0]].rich_help_panel)
        links.setdefault(panel, []).append(f"[`{name}`](#bascule-{name.replace(' ', '-')})")
    return links


def _command(name: str, command: Any, shared: set[str]) -> str:
    params = _params(command)
    needed = [_usage(p) for p in params if _is_argument(p) or p.required]
    own = [_line(param) for param in params if _line(param) not in shared]
    others = ", ".join(_names(param) for param in params if _line(param) in shared)
    lines = [f"## bascule {name}", "", command.help.strip(), ""]
    lines += [f"`{' '.join(['bascule', name, *needed])}`", ""] if needed else []
    lines += [*own, ""] if own else []
    return "\n".join(lines + ([f"Also {others}.", ""] if others else []))


def _params(command: Any) -> list[Any]:
    """What is shown: the arguments first, without the forms that are deprecated."""
    return sorted((p for p in command.params if not p.hidden), key=lambda p: not _is_argument(p))


def _is_argument(param: Any) -> bool:
    return not str(param.opts[0]).startswith("-")


def _usage(param: Any) -> str:
    if not _is_argument(param):
        return f"{param.opts[0]}={_kind(param).upper()}"
    name = str(param.metavar or param.name.upper())
    return name if param.required else f"[{name}]"


def _line(param: Any) -> str:
    """One line of a list: what to write, the default, the meaning."""
    if _is_argument(param):
        return f"- `{_usage(param)}`: {_words(param.help)}"
    return f"- {_names(param, with_kind=True)}{_default(param)}: {_words(param.help)}"


def _names(param: Any, *, with_kind: bool = False) -> str:
    if _is_argument(param):
        return f"`{_usage(param)}`"
    has_value = with_kind and not getattr(param, "is_flag", False)
    first, *others = [*param.opts, *param.secondary_opts]
    names = [f"{first}={_kind(param).upper()}" if has_value else first, *others]
    return ", ".join(f"`{name}`" for name in names)


def _name_first(line: str) -> str:
    return line.strip("- `[")


def _default(param: Any) -> str:
    if param.required:
        return " (required)"
    if param.default in (None, "", False):
        return ""
    return " (yes)" if param.default is True else f" (`{param.default}`)"


def _kind(param: Any) -> str:
    annotation = param.type_descriptor.annotation
    inner = getattr(annotation, "__args__", (annotation,))[0]
    return {"str": "text", "int": "number", "float": "number"}.get(inner.__name__, "path")


def _words(text: str | None) -> str:
    return " ".join((text or "").split())


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
