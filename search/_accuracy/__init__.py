"""What accuracy a network reaches: evaluated once, kept on disk, by short trainings side by side."""
