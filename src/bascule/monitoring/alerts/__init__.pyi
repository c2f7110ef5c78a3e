from . import sinks as sinks, sources as sources
from .advancing import (
    Acknowledgement as Acknowledgement,
    Alert as Alert,
    Rules as Rules,
    advance as advance,
)
from .delivery import Courier as Courier
from .findings import Finding as Finding, Observation as Observation, Source as Source
from .options import ReceiverOptions as ReceiverOptions, RouteOptions as RouteOptions
from .remote import RemoteAlerts as RemoteAlerts
from .routing import (
    Contacts as Contacts,
    Notification as Notification,
    Route as Route,
    Routing as Routing,
    Silence as Silence,
    notify as notify,
    shown as shown,
)
from .store import AlertStore as AlertStore
from .trial import shipped as shipped, try_receivers as try_receivers
from .watcher import Watcher as Watcher, Watching as Watching
