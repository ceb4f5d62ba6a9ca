"""The client's side of a run: stage, launch, follow, collect, clean up. Also makes and removes apps, and cleans up after earlier runs."""
