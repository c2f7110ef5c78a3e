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
from .page import document_of as document_of
