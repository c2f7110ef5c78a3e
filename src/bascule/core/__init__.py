"""What every room speaks of: names, digests, fields, programs, errors."""
