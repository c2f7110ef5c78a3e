from .applying import Applied as Applied, Line as Line, apply as apply
from .changes import Books as Books
from .document import (
    parse_document as parse_document,
    read_document as read_document,
    with_folder as with_folder,
)
from .remote import apply_remotely as apply_remotely
