"""Everything the API and the workers mean by the same word."""
