"""What daemon, agent, client and runner must agree on, said once. Standard library only."""
