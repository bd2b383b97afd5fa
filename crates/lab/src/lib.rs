//! The laboratory: the shipped program behind real kernels' NATs, and the paper's experiments.

pub mod emulator;
pub mod network;
pub mod sandbox;
pub mod topology;
