"""Agent specs over HTTP: what threads can be given as their agent."""
