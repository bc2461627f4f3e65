"""What networks of a space need and may need."""
