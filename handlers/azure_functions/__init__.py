"""The files for Azure Functions: entry file, requirements, infrastructure code."""
