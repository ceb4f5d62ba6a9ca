"""``fsd measure``: what the services of an app take, measured from its functions, as a table of latencies."""
