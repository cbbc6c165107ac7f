"""The operator's commands, a file for each thing they are about."""
