"""The `prefixrack` command, built on the client. Finds commands of other packages by entry point, imports none."""
