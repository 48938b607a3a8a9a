"""The contract on the fake Engine: always there, and fast."""

from tests.contract.platform_contract import PlatformContract


class TestOnTheFake(PlatformContract):
    """Its fixture `site` stands in conftest.py."""
