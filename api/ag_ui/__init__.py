"""The AG-UI protocol as an operation of the primary surface: see docs/surfaces/ag-ui.md."""
