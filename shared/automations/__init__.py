"""Automations: steps without a model. Pure: what is valid, what comes next, what a thread did."""
