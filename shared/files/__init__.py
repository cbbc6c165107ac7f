"""Files of tenants: what they are, how they are called, and where their bytes lie."""
