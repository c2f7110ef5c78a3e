from .draft import (
    Attempt as Attempt,
    Entry as Entry,
    Exposure as Exposure,
    Facts as Facts,
    Receipt as Receipt,
    draft as draft,
)
from .gathering import gather as gather
from .page import document_of as document_of
