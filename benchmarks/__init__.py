"""Load against whole processes on loopback. Figures are ratios within one run, never asserted."""
