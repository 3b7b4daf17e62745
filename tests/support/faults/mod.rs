//! Faults for the whole program: kills at random instants, power that fails, disks that are full, broken
//! or gone, clocks that jump.
//!
//! It knows commands and directories, nothing of how the program makes its work durable. Kills are real.
//! Errors of the disk come from `shim.c`, loaded into the program. Power failures are replayed: the shim
//! logs every change of one run, and `disk` makes from any beginning of that log the directories that may
//! be left, so that one run gives all its crashes.

pub mod campaign;
pub mod case;
pub mod compare;
pub mod disk;
pub mod random;
pub mod workload;
