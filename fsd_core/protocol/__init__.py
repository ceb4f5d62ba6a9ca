"""What client and workers agree on: the configuration of a run, launches, shards, and how a run that fails is ended."""
