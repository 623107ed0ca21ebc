//! The encoder as a burn module: trainer and oracle.
