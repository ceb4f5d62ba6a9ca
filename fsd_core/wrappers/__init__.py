"""Drivers that wrap another driver. Each wrapper is a driver itself, so that wrappers can wrap wrappers."""
