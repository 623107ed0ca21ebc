//! The meta-controller: which SLMs a new task gets, and where they come from. Native only.

pub mod cold_start;
