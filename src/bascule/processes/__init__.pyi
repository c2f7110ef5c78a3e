from .control import run_control as run_control
from .server import run_server as run_server
