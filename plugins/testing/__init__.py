"""Contract tests for parts: what a loss, a reward, a buffer … promises, whoever wrote it."""
