"""A training run from the outside: its settings, its folder, its record."""
