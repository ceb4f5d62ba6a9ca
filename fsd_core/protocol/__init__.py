"""The protocol between client and workers: the configuration of a run, launches, shards, and the end of a failed run."""
