"""What runs inside a peer's own environment: one file each, as its documentation shows it.

`NAME.txt` beside it says what that environment holds; `bench.environments` makes it. Nothing here
may import what the peers do not bring.
"""
