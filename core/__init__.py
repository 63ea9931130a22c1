"""Records, protocols, the pipeline and the loop. Nothing here knows a method."""
