"""The object store as client and workers use it: requests are counted and tried again, keys have one layout, runs lease slots."""
