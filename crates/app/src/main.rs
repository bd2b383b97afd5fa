//! `cooee`: a telephone network with no telephone company, in one program.

#![forbid(unsafe_code)]

fn main() {}
