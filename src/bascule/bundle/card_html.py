"""The card as one page of HTML: no script, nothing loaded from elsewhere, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bascule.bundle.card import (
    Block,
    Bullets,
    Plot,
    Quote,
    Said,
    Section,
    Table,
    Text,
    overview,
    sections,
)
from bascule.bundle.disk import Manifest

_LONG = 24
"""Letters of a cell from which its words may be broken."""
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b6470; --line: #d9dee4;
  --page: #ffffff; --band: #f5f7f9; --good: #1a7f4b; --bad: #b3261e; --mark: #3d5a80; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa4af; --line: #343b43;
  --page: #15181b; --band: #1e2327; --good: #5fce94; --bad: #ff8a80; --mark: #9db9dd; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-bottom: .35rem;
  border-bottom: 1px solid var(--line); }
nav { color: var(--soft); font-size: .9rem; margin-bottom: 1rem; }
nav a { color: var(--mark); text-decoration: none; margin-right: .9rem; white-space: nowrap; }
nav a:hover, nav a:focus { text-decoration: underline; }
p, li { max-width: 46rem; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .92rem; min-width: 20rem; }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: break-word; }
thead th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 600; color: var(--soft); white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
blockquote { margin: .75rem 0; padding: .75rem 1rem; background: var(--band);
  border-left: .25rem solid var(--mark); border-radius: .25rem; }
blockquote p { margin: 0 0 .5rem; white-space: pre-wrap; }
blockquote footer { color: var(--soft); font-size: .9rem; }
.passed { color: var(--good); font-weight: 600; } .failed { color: var(--bad); font-weight: 600; }
.long { overflow-wrap: anywhere; }
.overview { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr));
  gap: .75rem; margin: 1.25rem 0; padding: 0; }
.overview div { background: var(--band); border-radius: .4rem; padding: .6rem .8rem; }
.overview dt { color: var(--soft); font-size: .8rem; }
.overview dd { margin: 0; font-size: 1.2rem; font-weight: 600; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.25rem;
  margin: 1.25rem 0; }
.plots.small { grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); }
figure { margin: 0; break-inside: avoid; }
figure svg { width: 100%; height: auto; }
figcaption { font-size: .85rem; color: var(--soft); overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
svg .mid { text-anchor: middle; } svg .end { text-anchor: end; } svg .strong { fill: var(--page); }
svg .grid { stroke: var(--line); } svg .line { fill: none; stroke: var(--mark); stroke-width: 2; }
svg .guide { fill: none; stroke: var(--soft); stroke-dasharray: 4 4; }
svg .dot { fill: var(--mark); fill-opacity: .55; } svg .bar, svg .cell { fill: var(--mark); }
svg .bar { fill-opacity: .75; } svg .bar.other { fill: var(--soft); fill-opacity: .4; }
svg .band { fill: var(--mark); fill-opacity: .16; } svg .alarm { fill: var(--bad); }
svg .c1 { stroke: #b3261e; } svg .c2 { stroke: #1a7f4b; } svg .c3 { stroke: #b7791f; }
svg .c4 { stroke: #7b4fa0; } svg .c5 { stroke: #14808a; }
@media print { nav { display: none; } }
"""


def render_html(manifest: Manifest, said: Said, plots: Sequence[Plot] = ()) -> str:
    """The page, with plots such as `card_plots.plots` makes."""
    shown = sections(manifest, said)
    body = "\n".join(
        _section(one, [plot for plot in plots if plot.section == one.title]) for one in shown
    )
    links = [(_anchor(one), one.title) for one in shown]
    return page(manifest.name, links, f"{_overview(overview(manifest, said))}\n{body}")


def page(title: str, links: Sequence[tuple[str, str]], body: str) -> str:
    """A page of HTML in the style of the card.

    Args:
        title: Its heading.
        links: The anchor and the title of each section.
        body: HTML of the sections.
    """
    # Spaces, at which a long list of links breaks into lines.
    shown = " ".join(f'<a href="#{anchor}">{escape(text)}</a>' for anchor, text in links)
    name = escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{name}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>\n"
        f'<nav aria-label="Sections">{shown}</nav>\n'
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def _anchor(section: Section) -> str:
    return "".join(c if c.isalnum() else "-" for c in section.title.lower())


def rows_html(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values as a table, for notebooks."""
    cells = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table><tbody>{''.join(cells)}</tbody></table>"


def _overview(facts: Sequence[tuple[str, str]]) -> str:
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt>"
        f"<dd{_class(value if value in ('passed', 'failed') else '')}>{escape(value)}</dd></div>"
        for name, value in facts
    )
    return f'<dl class="overview">{tiles}</dl>'


def _section(section: Section, plots: Sequence[Plot]) -> str:
    blocks = "\n".join(_block(block) for block in section.blocks)
    return (
        f'<section id="{_anchor(section)}">\n<h2>{escape(section.title)}</h2>\n{blocks}\n'
        f"{_figures(section, plots)}</section>"
    )


def _figures(section: Section, plots: Sequence[Plot]) -> str:
    if not plots:
        return ""
    size = "plots small" if section.title == "Inputs" else "plots"
    figures = "\n".join(
        f"<figure>{plot.svg}<figcaption><b>{escape(plot.title)}.</b> {escape(plot.caption)}"
        "</figcaption></figure>"
        for plot in plots
    )
    return f'<div class="{size}">\n{figures}\n</div>\n'


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Quote(text, by):
            said_by = escape(by or "the author")
            return f"<blockquote><p>{escape(text)}</p><footer>{said_by}</footer></blockquote>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    is_number = [head in table.numbers for head in table.heads]
    head = ""
    if any(table.heads):
        cells = "".join(
            f'<th scope="col"{_class("number" if number else "")}>{escape(text)}</th>'
            for text, number in zip(table.heads, is_number, strict=True)
        )
        head = f"<thead><tr>{cells}</tr></thead>"
    body = "".join(f"<tr>{_cells(row, is_number)}</tr>" for row in table.rows)
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _cells(row: tuple[str, ...], is_number: list[bool]) -> str:
    first, *rest = zip(row, is_number, strict=True)
    made = f'<th scope="row">{escape(first[0])}</th>'
    for text, number in rest:
        kind = "number" if number else text if text in ("passed", "failed") else ""
        kind = kind or ("long" if len(text) > _LONG else "")
        made += f"<td{_class(kind)}>{escape(text)}</td>"
    return made


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
