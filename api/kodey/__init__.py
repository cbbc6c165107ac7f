"""The Kodey chat and agents surface: see docs/surfaces/kodey.md."""
