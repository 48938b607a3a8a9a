"""Docker Swarm as the platform."""
