"""What gets installed: the archives, the extras, the versions that are asked for."""
