"""What carries the calls of a protocol over gRPC: connections, flow, deadlines, compression.

`http2` is our own, on the event loop. What it must do for a method is in `transports.rpc`.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
