from .as_json import section_json as section_json
from .html import anchor as anchor, fragment as fragment, notebook as notebook, page as page
from .markdown import markdown as markdown
from .progress import progress_line as progress_line
from .spreadsheet import csv_line as csv_line
from .terminal import (
    bars as bars,
    console as console,
    lettered as lettered,
    table_for as table_for,
)
from .values import (
    Block as Block,
    Bullets as Bullets,
    Document as Document,
    Figures as Figures,
    Line as Line,
    Plot as Plot,
    Plots as Plots,
    Quote as Quote,
    Section as Section,
    Span as Span,
    Table as Table,
    Text as Text,
    code as code,
    strong as strong,
    verdict as verdict,
    words as words,
)
