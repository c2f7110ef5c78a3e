from . import chain as chain, events as events, origins as origins, sealing as sealing
from .catalogue import Catalogue as Catalogue, identity_of as identity_of
from .chain import Anchor as Anchor
from .changes import Watch as Watch
from .forgetting import forget as forget, redact as redact
from .idempotency import Reply as Reply, Requests as Requests
from .leases import (
    Leadership as Leadership,
    Lease as Lease,
    Leases as Leases,
    check_held as check_held,
    database_now as database_now,
)
from .origins import Origin as Origin
from .schema import (
    HEAD as HEAD,
    UtcTime as UtcTime,
    approvals as approvals,
    audit_chain as audit_chain,
    insert as insert,
    metadata as metadata,
    put as put,
    put_new as put_new,
    where as where,
)
from .sqlite import SqliteDatabase as SqliteDatabase
