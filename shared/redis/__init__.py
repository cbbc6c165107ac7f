"""Redis delivers: dispatch, live event logs, wake-ups, control. It may forget all of it."""
