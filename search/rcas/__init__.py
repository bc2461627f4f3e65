"""RCAS: blocks added to a network, the most useful first, until its budgets are used."""
