"""Reading a fit: its evidence, its draws, its criticism, and its export to ArviZ."""
