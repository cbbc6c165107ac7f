"""How Turnkeep is set up, run and shipped; nothing here is imported by the product itself."""
