from .differences import Change as Change
from .keys import CatalogueKeys as CatalogueKeys
from .registry import (
    Registry as Registry,
    files_to_keep as files_to_keep,
    open_registry as open_registry,
)
from .remote import (
    Keys as Keys,
    ModelRegistry as ModelRegistry,
    RemoteKeys as RemoteKeys,
    RemoteRegistry as RemoteRegistry,
)
from .versions import (
    Alias as Alias,
    Check as Check,
    Deprecation as Deprecation,
    Event as Event,
    Found as Found,
    Model as Model,
    Version as Version,
    models_table as models_table,
)
