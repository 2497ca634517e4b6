"""Files whatever is in them: replaced whole or not at all, and read with a check of every value."""
