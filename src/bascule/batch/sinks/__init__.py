"""The sinks of batch jobs, one file each behind the port in `bascule.batch.ports`."""
