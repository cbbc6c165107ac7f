"""What an agent is: its spec, written in markdown with a YAML head, and the names of its tools."""
