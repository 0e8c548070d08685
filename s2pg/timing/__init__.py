"""What an update costs: agents in lanes that take turns, and the study of time against context and parallel samples."""
