"""The files for Google Cloud Run functions: entry file, requirements, infrastructure code."""
