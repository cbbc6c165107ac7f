"""The MechaMental thread messages surface: see docs/surfaces/mechamental.md."""
