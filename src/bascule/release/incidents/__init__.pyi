from .draft import (
    Attempt as Attempt,
    Entry as Entry,
    Exposure as Exposure,
    Facts as Facts,
    Incident as Incident,
    Receipt as Receipt,
    Suspect as Suspect,
    draft as draft,
)
from .gathering import gather as gather
from .markdown import to_markdown as to_markdown
