"""Predicts the time and the cost of a run before it starts: facts of the workload, a prediction for each way to run it, and the choice."""
