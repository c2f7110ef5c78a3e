from .blocks import Block as Block, read_blocks as read_blocks, to_bytes as to_bytes
from .compaction import Compaction as Compaction
from .deletion import Deletions as Deletions, delete as delete, matching as matching
from .outcomes import Imported as Imported, Outcomes as Outcomes
from .query import Ledger as Ledger
from .scribe import Retention as Retention, Scribe as Scribe, write_segment as write_segment
from .shared import SharedStore as SharedStore, connect_home as connect_home
from .sharing import Sharing as Sharing
from .spool import SpoolWriter as SpoolWriter
