"""What is wrong with a set-up, and what to do: facts are gathered, then judged by pure functions."""
