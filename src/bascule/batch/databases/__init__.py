"""Databases as places of batch jobs, one file each behind the port `databases.port`."""
