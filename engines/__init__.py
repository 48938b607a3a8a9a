"""Throwaway clusters of real Docker engines on this machine, each node in namespaces of its own.

Used by `script/swarm` and by the engine tests. Standard library only. A *guardian* process owns all
of a cluster: when it ends, however it ends, everything goes. Names begin with the cluster's tag, so
that nothing collides with other clusters, leftovers, or a Docker that the user runs.
"""
