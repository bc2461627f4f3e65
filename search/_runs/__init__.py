"""What every run of a search does."""
