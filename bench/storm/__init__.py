"""How the server behaves: under open-loop load, overload, for long, and over a slow network."""
