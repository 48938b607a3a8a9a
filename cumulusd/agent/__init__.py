"""The agent: runs on a worker, or inside the local platform."""
