"""Where the bytes of a file are, and how they get here: addresses, cache, transfers with retries."""
