"""Recipes: YAML in, a checked run out; and the command line."""
