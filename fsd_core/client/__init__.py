"""The client's side of a run: stage, launch, follow, collect, and remove what runs left."""
