"""What every room may use: checks of arguments, paths and texts, threads, interrupts, sealed JSON, time by phase."""
