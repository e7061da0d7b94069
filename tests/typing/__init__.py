"""What type checkers are to know of the public API."""
