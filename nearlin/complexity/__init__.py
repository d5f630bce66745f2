"""Operation counting, exponent fits, and the table of claims."""
