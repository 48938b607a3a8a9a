"""The engine tests' fixtures and rules stand in `plugin.py`, which tests/conftest.py loads."""
