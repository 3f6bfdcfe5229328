"""Bytes on disk: checked on the way in, never torn on the way out."""
