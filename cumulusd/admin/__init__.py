"""What an operator does to the running daemon: its tokens, asked for over a socket of its own."""
