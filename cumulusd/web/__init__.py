"""HTTP: health, metrics, REST, the agents' bulk link."""
