"""The desks of the registry: what it does, one noun a file. `Registry` is all of them."""
