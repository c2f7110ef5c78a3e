"""What carries the calls of a protocol over gRPC: connections, flow, deadlines, compression.

`http2` is our own, on the event loop. What it must do for a method is in `serving.rpc`.
"""
