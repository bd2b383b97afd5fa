//! The laboratory: the shipped program behind real kernels' NATs, and the paper's experiments.
