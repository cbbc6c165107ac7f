"""Workers claim turns, run agents, write events and commit results."""
