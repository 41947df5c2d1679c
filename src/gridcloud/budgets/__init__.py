"""Who may spend how much: budgets per user, group and project, and the one ledger over all providers."""
