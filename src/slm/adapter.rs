//! What `train` writes and `pack` merges: an SLM folder with its adapter.
