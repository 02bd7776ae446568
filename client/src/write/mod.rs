//! The write side: write through, and write behind.
