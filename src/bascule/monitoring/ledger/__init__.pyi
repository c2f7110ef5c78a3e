from .blocks import Block as Block, read_blocks as read_blocks, to_bytes as to_bytes
from .compaction import Compaction as Compaction
from .deletion import (
    Deletions as Deletions,
    delete as delete,
    delete_and_record as delete_and_record,
    matching as matching,
)
from .outcomes import Imported as Imported, Outcomes as Outcomes
from .query import Ledger as Ledger
from .scribe import (
    Chore as Chore,
    Retention as Retention,
    Scribe as Scribe,
    write_segment as write_segment,
)
from .shared import (
    CATALOGUE_VARIABLE as CATALOGUE_VARIABLE,
    SharedStore as SharedStore,
    connect_home as connect_home,
    shared_of as shared_of,
)
from .sharing import Leader as Leader, Sharing as Sharing, host_of as host_of
from .spool import SpoolWriter as SpoolWriter
from .status import Status as Status, read_status as read_status
