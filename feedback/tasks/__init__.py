"""Task sources: procedural families and files, as indexable collections of problems."""
