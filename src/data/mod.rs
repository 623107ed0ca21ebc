//! Readers and writers of data files, one file a format, streaming.
