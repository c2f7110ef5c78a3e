"""What a control process does beside its requests, each on a thread of its own."""
