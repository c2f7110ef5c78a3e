from .backlog import (
    Backlog as Backlog,
    newest_days as newest_days,
    read_backlog as read_backlog,
)
from .blocks import Block as Block, read_blocks as read_blocks, to_bytes as to_bytes
from .manifest import Gap as Gap
from .outcomes import Imported as Imported, Outcomes as Outcomes
from .query import Ledger as Ledger
from .scribe import Retention as Retention, Scribe as Scribe
from .spool import SpoolWriter as SpoolWriter
