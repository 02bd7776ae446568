//! Schemas and data that change under the rules, by hands that mean no good: every change is precise or wider, never silent.

mod columns;
mod publication;
mod situations;
mod tables;
mod types;
mod windows;
