from . import version as version
from .addresses import (
    masked as masked,
    masked_text as masked_text,
    without_secrets as without_secrets,
)
from .children import (
    Child as Child,
    Limits as Limits,
    answer_parent as answer_parent,
    await_end as await_end,
    end as end,
    end_with as end_with,
    limited_memory as limited_memory,
    start_announcing as start_announcing,
    tell_parent as tell_parent,
)
from .digests import (
    canonical_json as canonical_json,
    sha256_bytes as sha256_bytes,
    sha256_file as sha256_file,
)
from .durations import (
    duration_words as duration_words,
    in_utc as in_utc,
    length_of as length_of,
    seconds_of as seconds_of,
)
from .errors import (
    KINDS as KINDS,
    BasculeError as BasculeError,
    BasculeWarning as BasculeWarning,
    Conflict as Conflict,
    Gone as Gone,
    Invalid as Invalid,
    MissingExtra as MissingExtra,
    ModelFailed as ModelFailed,
    NoRoom as NoRoom,
    NotFound as NotFound,
    Overloaded as Overloaded,
    Refused as Refused,
    TimedOut as TimedOut,
    TooLarge as TooLarge,
    Unauthenticated as Unauthenticated,
    Unavailable as Unavailable,
    Unconvertible as Unconvertible,
    Untrusted as Untrusted,
    error_from_json as error_from_json,
    error_to_json as error_to_json,
    first_line as first_line,
    next_step as next_step,
)
from .fields import (
    Columns as Columns,
    Dates as Dates,
    DType as DType,
    Field as Field,
    Signature as Signature,
    canonical_date as canonical_date,
    moments_of as moments_of,
)
from .files import (
    check_file as check_file,
    check_replaceable as check_replaceable,
    check_writable as check_writable,
    drafts_of as drafts_of,
    is_there as is_there,
    replacing as replacing,
    sync_folder as sync_folder,
    synced as synced,
    writing as writing,
)
from .names import (
    NAME_PATTERN as NAME_PATTERN,
    Reference as Reference,
    check_name as check_name,
    is_file_name as is_file_name,
    is_inside as is_inside,
    library as library,
    load_named as load_named,
    user_name as user_name,
)
from .printing import counted as counted, printable as printable
from .processes import (
    SignalEvent as SignalEvent,
    holder_name as holder_name,
    is_alive as is_alive,
    own_process as own_process,
)
from .programs import (
    AroundProgram as AroundProgram,
    PartCounts as PartCounts,
    Program as Program,
)
from .scratch import Scratch as Scratch, sweep as sweep
from .secrets import is_kept_elsewhere as is_kept_elsewhere, secret_in as secret_in
from .streams import write_without_waiting as write_without_waiting
from .version import VERSION as VERSION
