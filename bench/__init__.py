"""Side-by-side measurements of Bascule, its peers and the floor. `python -m bench --help`."""
