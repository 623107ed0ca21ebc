//! The packed file that a browser downloads.
