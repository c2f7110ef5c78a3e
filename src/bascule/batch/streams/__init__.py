"""Event streams: messages in, scored messages out, behind the port in `streams.port`."""
