"""The turn domain: states, events, values. Pure: no I/O, no clock, no asyncio."""
