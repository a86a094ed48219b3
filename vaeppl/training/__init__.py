"""Fitting: the loop, its schedules, its checkpoints and what it reports while it runs."""
