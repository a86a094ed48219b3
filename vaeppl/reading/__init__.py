"""Reading a fit: its evidence, its draws, its labels, its criticism, and its export to ArviZ."""
