"""What is done before a session starts: contracts of hooks, and how they are run and undone."""
