"""What the control API does with the registry, and with the keys of callers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

import msgspec

from bascule.bundle.disk import Statement
from bascule.operations import Listing, Operation
from bascule.registry.differences import Change
from bascule.registry.versions import Alias, Check, Event, Found, Model, Version
from bascule.security import ANY, Key, Permission

_MODEL = "models/{model}"
_ALIAS = f"{_MODEL}/aliases/{{alias}}"
_VERSION = f"{_MODEL}/versions/{{number}}"
_ITS, _TAG = "{model}", "registry"


def _model(said: Mapping[str, Any]) -> Model:
    newest = msgspec.convert(said["newest"], Version)
    aliases = {
        name: Alias(said["name"], name, number, newest.pushed_at)
        for name, number in said["aliases"].items()
    }
    return Model(said["name"], said["versions"], newest, aliases)


def _key(said: Mapping[str, Any]) -> Key:
    """Without the hash of its token, which stays on the server."""
    moments = ("created_at", "expires_at", "revoked_at")
    read = {name: said[name] and datetime.fromisoformat(said[name]) for name in moments}
    permissions = tuple(map(Permission.parse, said["permissions"]))
    known = {one.name: said[one.name] for one in fields(Key) if one.name in said}
    return Key(**{**known, **read, "permissions": permissions, "token_sha256": ""})


MODELS = Listing("GET models", "read", ANY, Model, _TAG, reads=_model)
SEARCH = Listing("GET search", "read", ANY, Found, _TAG)
MODEL = Operation(f"GET {_MODEL}", "read", _ITS, Model, _TAG, reads=_model)
RESOLVE = Operation(f"GET {_MODEL}/resolve", "read", _ITS, Version, _TAG)
HISTORY = Listing(f"GET {_MODEL}/history", "read", _ITS, Event, _TAG)
ALIASES = Listing(f"GET {_MODEL}/aliases", "read", _ITS, Alias, _TAG)
ALIAS = Operation(f"GET {_ALIAS}", "read", _ITS, Alias, _TAG)
_THING = "alias:{model}@{alias}"
SET_ALIAS = Operation(
    f"PUT {_ALIAS}", "write", _ITS, Event, _TAG, history="alias_moved", thing=_THING
)
DROP_ALIAS = Operation(
    f"DELETE {_ALIAS}", "write", _ITS, Event, _TAG, history="alias_dropped", thing=_THING
)
VERSIONS = Listing(f"GET {_MODEL}/versions", "read", _ITS, Version, _TAG)
# An upload is one version however often it is sent.
PUSH = Operation(
    f"POST {_MODEL}/versions", "write", _ITS, Version, _TAG, status=201, history="pushed",
    is_once=True, max_body_bytes=4 << 30,
)  # fmt: skip
VERSION = Operation(f"GET {_VERSION}", "read", _ITS, Version, _TAG)
STATEMENTS = Listing(f"GET {_VERSION}/statements", "read", _ITS, Statement, _TAG)
CHECKS = Listing(f"GET {_VERSION}/checks", "read", _ITS, Check, _TAG)
# The model of the other version is in the query: asked then.
DIFFERENCES = Listing(f"GET {_VERSION}/differences", "read", _ITS, Change, _TAG)
BUNDLE = Operation(f"GET {_VERSION}/bundle", "download", _ITS, bytes, _TAG)
TAGS = Operation(f"GET {_VERSION}/tags", "read", _ITS, dict[str, str], _TAG)
CHANGE_TAGS = Operation(
    f"PATCH {_VERSION}/tags", "write", _ITS, dict[str, str], _TAG, history="tag_set"
)
SERVERS = Listing(f"GET {_VERSION}/servers", "read", _ITS, str, _TAG)
RETIRE = Operation(f"PUT {_VERSION}/retirement", "write", _ITS, Version, _TAG, history="retired")
RESTORE = Operation(
    f"DELETE {_VERSION}/retirement", "write", _ITS, Version, _TAG, history="restored"
)
DEPRECATE = Operation(
    f"PUT {_VERSION}/deprecation", "write", _ITS, Version, _TAG, history="deprecated"
)
UNDEPRECATE = Operation(
    f"DELETE {_VERSION}/deprecation", "write", _ITS, Version, _TAG, history="undeprecated"
)

KEYS = Listing("GET keys", "keys", "", Key, reads=_key)
CREATE_KEY = Operation(
    "POST keys", "keys", "", tuple[Key, str], status=201, history="key_created",
    reads=lambda said: (_key(said), str(said["token"])),
)  # fmt: skip
KEY = Operation("GET keys/{key}", "keys", "", Key, reads=_key)
REVOKE_KEY = Operation("DELETE keys/{key}", "keys", "", Key, history="key_revoked", reads=_key)
