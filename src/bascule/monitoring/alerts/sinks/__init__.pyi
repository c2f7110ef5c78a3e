from .posting import post as post
from .receivers import Receiver as Receiver, Sink as Sink
from .table import SINKS as SINKS, open_sink as open_sink
from .webhook import signature as signature
