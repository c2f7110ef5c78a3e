from .keys import (
    ANY as ANY,
    OPEN_ACTIONS as OPEN_ACTIONS,
    Action as Action,
    Key as Key,
    KnownKeys as KnownKeys,
    Permission as Permission,
    create_key as create_key,
    not_allowed as not_allowed,
    revoke_key as revoke_key,
)
from .signing import Signed as Signed, sign_folder as sign_folder, verify_folder as verify_folder
