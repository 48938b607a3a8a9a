"""The WAMP router: transports, sessions, dealer, broker, identity."""
