"""The commands that this package adds to `prefixrack`: option parsing and printing; the work is done elsewhere."""
