"""`bascule document`: a compliance document of a version, from evidence."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, Ref
from bascule.cli.jobs import run_here
from bascule.cli.screen import note, print_json, print_table, say
from bascule.core import Invalid, Scratch, Unavailable, replacing

if TYPE_CHECKING:
    from bascule.registry import Version

_FORMS = {".md": "markdown", ".html": "html", ".pdf": "html"}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "microsoft-edge")
_PRINTING_S = 120.0


def document(
    name: Annotated[
        str,
        typer.Argument(
            metavar="DOCUMENT",
            help="annex-iv, article-12, model-card, dpia, hipaa, sr-11-7, nist-rmf, or one of "
            "documents.lists.",
            show_default=False,
        ),
    ],
    model: Ref,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write it: .md, .html or .pdf. Default: print Markdown.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a compliance document from evidence, with what is missing and who must write it."""
    form = out.suffix.lower() if out else ".md"
    if form not in _FORMS:
        raise Invalid(f"--out {out} is no .md, .html or .pdf", hint="--out document.html")
    rendered = _rendered(name, context.registry().resolve(model))
    text, missing = rendered[_FORMS[form]], rendered["json"]["missing"]
    if out is not None:
        with replacing(out) as draft:
            draft.write_bytes(_printed(text) if form == ".pdf" else text.encode())
        note(f"wrote {out}")
    if as_json:
        print_json(rendered["json"])
    elif out is None:
        say(text.rstrip("\n"))
    else:
        rows = [(lack["section"], lack["what"], lack["who"], lack["how"]) for lack in missing]
        print_table(("section", "missing", "who", "how"), rows, empty="no part is missing")


def _rendered(name: str, version: Version) -> dict[str, Any]:
    """The document in each format, made here or by `--server`."""
    if context.is_remote():
        from bascule.control import operations

        return context.remote().ask(
            operations.DOCUMENT, model=version.model, number=version.number, document=name
        )
    return run_here("document", {"model": str(version), "document": name})


def _printed(html: str) -> bytes:
    """The page as PDF, by a browser that is installed."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise Unavailable("no Chromium is installed, which prints a PDF", hint="--out FILE.html")
    with Scratch("bascule-document-") as folder:
        page, pdf = folder / "page.html", folder / "page.pdf"
        page.write_text(html, encoding="utf-8")
        words = [
            browser, "--headless", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []), "--no-pdf-header-footer",
            f"--print-to-pdf={pdf}", page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(words, capture_output=True, check=False, timeout=_PRINTING_S)
        if not pdf.is_file():
            reason = " ".join(done.stderr.decode(errors="replace").strip().splitlines()[-1:])
            raise Unavailable(f"{browser} printed no PDF: {reason}", hint="--out FILE.html")
        return pdf.read_bytes()
