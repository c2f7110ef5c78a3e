from .blocks import Block as Block, read_blocks as read_blocks, to_bytes as to_bytes
from .outcome_lines import (
    Line as Line,
    OutcomeInput as OutcomeInput,
    Refused as Refused,
    read_body as read_body,
    read_outcomes as read_outcomes,
)
from .outcome_spool import OutcomeSpool as OutcomeSpool
from .outcome_tables import (
    read_csv as read_csv,
    read_parquet as read_parquet,
    read_query as read_query,
)
from .outcomes import Imported as Imported, Outcomes as Outcomes
from .query import Ledger as Ledger
from .remote_outcomes import RemoteOutcomes as RemoteOutcomes
from .scribe import Retention as Retention, Scribe as Scribe
from .spool import SpoolWriter as SpoolWriter
