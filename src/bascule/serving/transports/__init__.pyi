from .authenticator import (
    LOOK_EVERY_S as LOOK_EVERY_S,
    Authenticator as Authenticator,
    KeysFile as KeysFile,
)
from .exchange import (
    Exchange as Exchange,
    Head as Head,
    told as told,
)
from .hosts import (
    HostPolicy as HostPolicy,
    check_allowed_host as check_allowed_host,
    host_of as host_of,
    is_loopback as is_loopback,
    policy_of as policy_of,
)
from .http1 import Connection as Connection
from .http1_requests import Site as Site
from .http2 import Http2Server as Http2Server
from .listeners import BACKLOG as BACKLOG, Listener as Listener
from .offload import FROM_BYTES as FROM_BYTES, ROWS_FROM_BYTES as ROWS_FROM_BYTES
from .parts import PartForm as PartForm, PartWire as PartWire, check_rights as check_rights
from .routes import (
    About as About,
    Handler as Handler,
    Route as Route,
    Routes as Routes,
    not_allowed as not_allowed,
    table as table,
)
from .rpc import (
    InParts as InParts,
    Method as Method,
    Methods as Methods,
    Rpc as Rpc,
    RpcInParts as RpcInParts,
    Unary as Unary,
    Watch as Watch,
)
from .statuses import (
    NOT_FOUND as NOT_FOUND,
    UNIMPLEMENTED as UNIMPLEMENTED,
    HttpError as HttpError,
    error_body as error_body,
    error_text as error_text,
    internal_error as internal_error,
    status_of as status_of,
)
from .tls import Tls as Tls
