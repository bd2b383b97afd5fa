//! Calls between devices in virtual time: what each button does at both ends, what a lost
//! connection, a crash or a replay does, and random actions and faults from seeds.

mod scripted;
mod swarm;
mod world;
