from . import references as references
from .answers import Approval as Approval, Served as Served, ShownSession as ShownSession
from .api.context import ControlContext as ControlContext
from .api.deferred import DeferredRoute as DeferredRoute
from .api.inside import ask_inside as ask_inside
from .api.problems import problem_of as problem_of
from .api.rights import SESSION as SESSION, Authorise as Authorise
from .api.routes.sessions import drop_cookie as drop_cookie, set_cookie as set_cookie
from .api.routes.usage import usage_asked as usage_asked
from .approvals import Approvals as Approvals
from .history import (
    OF_ADMINISTRATORS as OF_ADMINISTRATORS,
    Act as Act,
    Asked as Asked,
    History as History,
    as_csv as as_csv,
    as_json_lines as as_json_lines,
)
from .link import ServerLink as ServerLink
from .loops.anchoring import anchoring as anchoring, read_anchors as read_anchors
from .loops.budgets import sharing_budgets as sharing_budgets
from .loops.devices import rolling_out as rolling_out
from .loops.following import following_plans as following_plans
from .loops.holds import holding_served as holding_served
from .loops.reviewing import choosing_reviews as choosing_reviews
from .loops.rollouts import running_rollouts as running_rollouts
from .loops.routing import routing_plans as routing_plans
from .loops.turning import turning as turning
from .loops.watched import facts_of as facts_of
from .parts import Parts as Parts
from .people.cookies import (
    SAFE_METHODS as SAFE_METHODS,
    FindSession as FindSession,
    check_same_origin as check_same_origin,
    cookie_name as cookie_name,
    cookie_of as cookie_of,
    is_encrypted as is_encrypted,
)
from .people.oidc import (
    FLOW_LASTS_S as FLOW_LASTS_S,
    Flow as Flow,
    Provider as Provider,
    ProviderConfig as ProviderConfig,
    check_installed as check_installed,
)
from .people.sessions import Sessions as Sessions, path_of_link as path_of_link
from .process import (
    Answers as Answers,
    open_keys_file as open_keys_file,
    serve_api as serve_api,
    volunteer_for_the_oom_killer as volunteer_for_the_oom_killer,
)
from .references import (
    is_path as is_path,
    named_folder as named_folder,
    registered as registered,
    spec_of_folder as spec_of_folder,
    version_of as version_of,
    versions_of as versions_of,
)
from .shown import SettingsShown as SettingsShown
