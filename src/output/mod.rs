//! x
mod chain;
