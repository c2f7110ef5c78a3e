from .channel import Message as Message
from .config import LedgerConfig as LedgerConfig, ServingConfig as ServingConfig
from .control_child import ControlCommand as ControlCommand
from .loaded_models import LoadedModels as LoadedModels
from .peer import Peer as Peer
from .scribe_child import ScribeCommand as ScribeCommand
from .sockets import Addresses as Addresses, bind as bind
from .supervisor import (
    ModelState as ModelState,
    Supervisor as Supervisor,
    WorkerStatus as WorkerStatus,
)
