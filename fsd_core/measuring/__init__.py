"""``fsd measure``: measures the services of an app from its functions, and writes a table of latencies."""
