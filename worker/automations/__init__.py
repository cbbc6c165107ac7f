"""Runs automations: steps one after the other, without a model."""
