//! The meta-controller: which SLMs a new task is labelled by, and the projects that label it.

pub mod generate;
