"""Programs that attack servers of this package, on this machine only, and measure what that costs others."""
