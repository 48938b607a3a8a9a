"""Jobs: the core. Knows no transport and no platform, only the ports it names."""
