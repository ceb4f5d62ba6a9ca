"""The client's side of a run: stage, launch, follow, collect, clean up; and the removal of what runs left behind."""
