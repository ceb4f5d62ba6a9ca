"""What client and workers agree on: how a run is configured, launched, split into shards, and ended early."""
