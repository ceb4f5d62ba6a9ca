"""What Azure is given: the entry file, its requirements, its infrastructure code."""
