"""What daemon, agent, client and runner must agree on, said once. Standard library only."""

#: Set by a job's runner, before it imports anything else of this package: see `enums`.
is_light = False
