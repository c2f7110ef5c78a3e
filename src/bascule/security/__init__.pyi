from . import vault as vault
from .approvals import (
    Decision as Decision,
    Person as Person,
    is_protected as is_protected,
    judge_decision as judge_decision,
)
from .envelopes import (
    open_envelope as open_envelope,
    sign_envelope as sign_envelope,
)
from .keys import (
    ANY as ANY,
    ON_BEHALF as ON_BEHALF,
    OPEN_ACTIONS as OPEN_ACTIONS,
    PROJECT as PROJECT,
    SERVER_KEY as SERVER_KEY,
    Action as Action,
    Key as Key,
    KnownKeys as KnownKeys,
    Permission as Permission,
    check_is_free as check_is_free,
    check_models as check_models,
    create_key as create_key,
    new_key as new_key,
    not_allowed as not_allowed,
    permits as permits,
    revoke_key as revoke_key,
)
from .projects import (
    check_project as check_project,
    check_projects as check_projects,
    in_force as in_force,
    projects_of as projects_of,
)
from .roles import (
    ADMINISTRATOR as ADMINISTRATOR,
    ROLES as ROLES,
    in_words as in_words,
    permissions_of_role as permissions_of_role,
    permissions_of_roles as permissions_of_roles,
    roles_of_claim as roles_of_claim,
)
from .sessions import (
    MAX_TOKEN as MAX_TOKEN,
    Link as Link,
    Session as Session,
    csrf_of as csrf_of,
    hash_of as hash_of,
    is_csrf_of as is_csrf_of,
    local_path as local_path,
    new_token as new_token,
)
from .signing import (
    fingerprint as fingerprint,
    sign_folder as sign_folder,
    verify_folder as verify_folder,
)
from .vault import Vault as Vault, ask_vault as ask_vault
