"""From what a handler says to what the store is told: the report, the decisions, the thread."""
