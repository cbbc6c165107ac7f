"""The Zylon workspace surface: see docs/surfaces/zylon.md."""
