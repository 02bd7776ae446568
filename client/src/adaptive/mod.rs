//! How long an entry lives, and when it is made anew.
