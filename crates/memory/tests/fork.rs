//! What a forked child sees.
