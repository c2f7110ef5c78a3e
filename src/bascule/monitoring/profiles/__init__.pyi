from .folding import MAX_ROWS_PER_S as MAX_ROWS_PER_S, Folding as Folding
from .windows import (
    RETENTION_DAYS as RETENTION_DAYS,
    ProfileFile as ProfileFile,
    read_windows as read_windows,
    versions_since as versions_since,
    write_channel_windows as write_channel_windows,
)
