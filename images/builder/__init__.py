"""Makes the container images, with a Docker engine or without one. Standard library only."""
