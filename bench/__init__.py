"""What Cumulus costs beside what a user would take instead: `script/bench`."""
