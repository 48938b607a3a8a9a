"""What stands on the path of a job's code, after its own modules: `runtime`."""
