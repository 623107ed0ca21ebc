//! Base weights, packing and the cache.
