//! The CPU engine: our own kernels.
