"""Time and memory: of a probe, a scan, the command line, the search for points and a supervised step."""
