//! The laboratory: the shipped program behind real kernels' NATs, and the paper's experiments.

mod canvas;
pub mod capture;
pub mod cli;
pub mod deployment;
pub mod doctor;
pub mod eavesdropper;
pub mod emulator;
pub mod experiments;
pub mod matrix;
pub mod measure;
pub mod mobility;
pub mod namespace;
pub mod network;
mod packet_socket;
pub mod proxy;
pub mod pulse;
pub mod report;
pub mod sandbox;
pub mod setup;
pub mod speech;
pub mod topology;
pub mod voice;
