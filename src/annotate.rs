//! The run: batches, progress, journal and resume, report.
