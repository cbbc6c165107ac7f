"""Reads the text of files, each in a process of its own with little memory and little time."""
