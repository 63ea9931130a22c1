"""The registry and its hooks."""
