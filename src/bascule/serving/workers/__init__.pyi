from .config import LedgerConfig as LedgerConfig, ServingConfig as ServingConfig
from .loaded_models import LoadedModels as LoadedModels
from .peer import Message as Message, Peer as Peer
from .sockets import Addresses as Addresses, bind as bind
from .supervised import Command as Command
from .supervisor import (
    ModelState as ModelState,
    Supervisor as Supervisor,
    WorkerStatus as WorkerStatus,
)
