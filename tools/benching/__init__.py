"""The parts of `tools/bench`: measurements of lazyfs beside its peers."""
