"""The Workers port, over WAMP."""
