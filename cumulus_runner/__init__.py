"""Runs one job inside its container: sets up, runs the code, writes the journal.

Standard library and `cumulus_wire` only. The contract stands in docs/protocol.md, sections 3 and 4.
"""
