"""What a run will take and cost, before anyone pays: facts of the workload, a prediction for each way to run it, and the choice."""
