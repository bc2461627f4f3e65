"""Evolution of networks within budgets."""
