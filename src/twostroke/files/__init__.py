"""Bytes on disk: checked when read, written atomically."""
