"""What AWS Lambda is given: the entry file, its requirements, its infrastructure code."""
