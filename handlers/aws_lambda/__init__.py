"""The files for AWS Lambda: entry file, requirements, infrastructure code."""
