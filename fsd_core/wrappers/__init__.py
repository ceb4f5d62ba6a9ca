"""Drivers around drivers: each takes a driver, is one, and composes with the others."""
