"""The sweep: hundreds of models, packed, and asked about rows that `pack` has not seen."""
