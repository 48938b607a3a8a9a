"""The Cumulus relay daemon and the agent that runs on each GPU worker."""

__version__ = "0.1.0"
