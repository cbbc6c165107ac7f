"""Redis delivers: dispatch, live event logs, hand-overs, control. It may forget all of it."""
