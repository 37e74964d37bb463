"""Other protocols over the same rooms, so that clients people have work as they are. Each knows its own shapes; none
knows tensors of the engine, keys or limits: those are the native routes'."""
