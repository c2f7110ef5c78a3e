from .backlog import (
    Backlog as Backlog,
    newest_days as newest_days,
    read_backlog as read_backlog,
)
from .blocks import (
    HASH as HASH,
    SEALED as SEALED,
    SEALING as SEALING,
    TEXT as TEXT,
    Column as Column,
    Head as Head,
    Layout as Layout,
    Origin as Origin,
    pack_request as pack_request,
    read_blocks as read_blocks,
    text_pieces as text_pieces,
    to_bytes as to_bytes,
)
from .callers import callers_of as callers_of
from .cohorts import (
    CohortCount as CohortCount,
    CountedLoss as CountedLoss,
    Span as Span,
    SteeredAnswers as SteeredAnswers,
    count_cohorts as count_cohorts,
    judge_model as judge_model,
    losses_of_rows as losses_of_rows,
)
from .compaction import Compaction as Compaction
from .deletion import (
    Deletions as Deletions,
    matching as matching,
    offer_subject as offer_subject,
)
from .forgetting import delete as delete, delete_and_record as delete_and_record
from .hashing import (
    KEY_FILE as KEY_FILE,
    hash_key as hash_key,
    hashed as hashed,
    outcome_draw as outcome_draw,
)
from .manifest import Gap as Gap, Subject as Subject, read_manifest as read_manifest
from .masters import write_secret as write_secret
from .operations import (
    Added as Added,
    By as By,
    CallerCount as CallerCount,
    Outcome as Outcome,
    Usage as Usage,
    UsageLine as UsageLine,
)
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
    read_query as read_query,
)
from .outcome_upkeep import OutcomeUpkeep as OutcomeUpkeep
from .outcomes import Outcomes as Outcomes
from .query import Ledger as Ledger, quoted as quoted
from .receiving import receive_table as receive_table
from .remote_outcomes import RemoteOutcomes as RemoteOutcomes
from .scribe import (
    Chore as Chore,
    Retention as Retention,
    Scribe as Scribe,
    write_segment as write_segment,
)
from .sealing import (
    ENCRYPTED as ENCRYPTED,
    PRIVATE as PRIVATE,
    FieldKeys as FieldKeys,
    note_master as note_master,
)
from .shared import (
    CATALOGUE_VARIABLE as CATALOGUE_VARIABLE,
    DAYS_KEPT_VARIABLE as DAYS_KEPT_VARIABLE,
    SharedStore as SharedStore,
    connect_home as connect_home,
    shared_of as shared_of,
)
from .sharing import Leader as Leader, Sharing as Sharing, host_of as host_of
from .spool import SpoolWriter as SpoolWriter
from .status import read_status as read_status
from .subjects import (
    ANY_MODEL as ANY_MODEL,
    Digests as Digests,
    Tombstone as Tombstone,
    put_tombstone as put_tombstone,
    text_of as text_of,
)
from .trimming import Trimming as Trimming
