//! Against the real kernel; skipped with a printed reason where it lacks what a test needs.

mod flushes;
