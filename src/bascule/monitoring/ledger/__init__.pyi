from .blocks import (
    TEXT as TEXT,
    Column as Column,
    Head as Head,
    Layout as Layout,
    kept_rows_of as kept_rows_of,
    pack_request as pack_request,
    read_blocks as read_blocks,
    text_pieces as text_pieces,
    to_bytes as to_bytes,
)
from .outcomes import Imported as Imported, Outcomes as Outcomes
from .query import Ledger as Ledger
from .scribe import Retention as Retention, Scribe as Scribe
from .spool import SpoolWriter as SpoolWriter
