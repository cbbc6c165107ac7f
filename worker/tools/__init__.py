"""The tools of agents: a name, a schema and one coroutine each, called with or without a model."""
