"""A run as text, pictures and pages."""
