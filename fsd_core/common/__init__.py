"""Helpers for all other packages: checks of arguments, tables, paths and text files, threads, interrupts, sealed JSON, time by phase."""
