"""Words that point at things in place of naming them, and where they may still stand.

`python -m tests.docs.plain_words` writes the list of source files that are not rewritten yet. The
list is to become empty: the test refuses findings in other files, and files on it without any.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_YET = Path(__file__).with_name("not_yet_plain.txt")

PHRASES = {
    r"who(m)?ever": "name the role: the caller, the user, the client",
    r"whatever": "regardless of, any, or the list of cases",
    r"(no|some|every)body": "name the role: no caller, another user, all clients",
    r"(is|are|was|were|be) told": "receives, is answered with, is logged",
    r"told (of|by|at|that|not|so|as|all)": "is reported, is listed, is recorded",
    r"those who": "name the role: callers, waiting requests",
    r"who (asks|comes|waits|is|would|reads|finds)": "name the role: a caller that, requests that",
    r"what is (told|said)": "name it: the message, the statement, the log line",
    r"goodbye": "the closing alert, the GOAWAY frame",
    r"asleep": "unloaded",
    r"in company": "in a batch",
    r"company (changes|for|of)": "batch mates",
    r"at a loss": "say what is missing",
    r"in earnest": "say what is measured",
}
"""What is refused, and what to write."""

_CODE = re.compile(r"^```.*?^```|``.+?``|`[^`\n]*`|\]\([^)]*\)", re.MULTILINE | re.DOTALL)
_WRONG = re.compile(r"\b(" + "|".join(PHRASES).replace(" ", r"\s+") + r")\b", re.IGNORECASE)


def pages() -> list[Path]:
    """What users and contributors read, without the page of commands, which is made from src."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return sorted(page for page in found if page.name != "cli.md")


def sources() -> list[Path]:
    return sorted((ROOT / "src").rglob("*.py"))


def wrong_words(text: str) -> Iterator[tuple[int, str]]:
    """The line and the words of each finding; what is in code is not looked at."""
    plain = _CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)
    joined = re.sub(r"\n[ \t#]*", lambda gap: "\n" + " " * (len(gap[0]) - 1), plain)
    for found in _WRONG.finditer(joined):
        yield joined.count("\n", 0, found.start()) + 1, found[0]


def not_yet_plain() -> list[str]:
    return [line for line in NOT_YET.read_text().splitlines() if line and not line.startswith("#")]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def main() -> None:
    listed = [name(path) for path in sources() if any(wrong_words(path.read_text()))]
    head = "# Source files that are not in plain words yet. Only ever remove lines.\n"
    NOT_YET.write_text(head + "\n".join(listed) + "\n")
    sys.stdout.write(f"{len(listed)} files of {len(sources())}\n")


if __name__ == "__main__":
    main()
