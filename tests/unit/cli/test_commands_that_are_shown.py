"""Each command that a page of the console or a hint shows is one that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import typer.main
from typer._click.exceptions import UsageError

import bascule
from bascule.cli.commands import app

SOURCE = Path(bascule.__file__).parent


def shown(text):
    """The commands in a template; what a value fills in is the word X."""
    text = re.sub(r'" ~ [^"~]+(?: ~ ")?', "X", text)
    text = re.sub(r"\{\{[^}\"]*\}\}", "X", text)
    for lines in re.findall(r'bascule ([a-z][^"<`{},]*)', text):
        yield from (line.removeprefix("bascule ") for line in lines.split("\\n"))


def refusal(words):
    """Why the command line does not take the words; empty if it does. Nothing is run."""
    command = typer.main.get_command(app)
    context = command.context_class(command, info_name="bascule")
    try:
        while words and hasattr(command, "resolve_command"):
            name, command, words = command.resolve_command(context, words)
            context = command.context_class(command, parent=context, info_name=name)
        if not words:
            return ""  # the name alone speaks of the command
        command.parse_args(context, list(words))
    except UsageError as problem:
        return problem.format_message()
    return ""


COMMANDS = sorted(
    {
        (file.name, command.rstrip(" .,)"))
        for file in (SOURCE / "console" / "templates").glob("*.html")
        for command in shown(file.read_text())
    }
)


@pytest.mark.parametrize(("template", "command"), COMMANDS)
def test_a_command_that_the_console_shows_is_taken(template, command):
    assert not refusal(shlex.split(command))


def test_a_command_that_is_not_taken_is_noticed():
    assert refusal(["alias", "posts", "champion", "1"])
    assert refusal(["schedule", "add", "nightly"])
