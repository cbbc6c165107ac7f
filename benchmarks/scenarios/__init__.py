"""One module per scenario. Each measures one side: a list of figures, one dictionary per run."""
