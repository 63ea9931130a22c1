"""Where trajectories come from and where they wait: tasks, samplers, sources, critics, buffers."""
