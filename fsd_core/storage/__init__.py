"""The object store as client and workers use it: counted and retried requests, the layout of keys, and the leases of slots."""
