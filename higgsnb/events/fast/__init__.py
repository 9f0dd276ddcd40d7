"""The fast ROOT readers: only the bytes and the events that a selection can need."""
