"""Runs, as this machine remembers them: their folders, journals and locks."""
