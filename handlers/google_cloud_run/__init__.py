"""What Google Cloud is given: the entry file, its requirements, its infrastructure code."""
