"""didact: learning from feedback."""
