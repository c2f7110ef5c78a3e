"""How each kind of program is run."""
