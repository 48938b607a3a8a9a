"""GPU partitions: ledger, discovery, grant."""
